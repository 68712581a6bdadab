#!/usr/bin/env python3
"""Is every threat of docs/threat-model.md met by a test that ran?

  check_threats.py ROOT BUILD RESULTS   ROOT/docs/threat-model.md against the tests of BUILD and what `ctest --output-junit RESULTS` wrote
  check_threats.py --self-test          shows that faults of the table are caught

The table has a row for each number of THREATS. Each path in its column "where" must exist. Its column "test" names tests as
`Suite.Name`, with * for any letters; parameters are not written. Each name must match a test, and each test that it matches must
have passed in the run. Where a machine may lack what a test needs, the name is followed by (conditional: what it needs);
then a test that was skipped will do, but not one that was not started.
"""
import collections
import fnmatch
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

THREATS = range(1, 73)
ROW = re.compile(r"^\|\s*(\d+)\s*\|(.*)\|\s*$")
# room.Prefix/Suite.Name/parameter, as ctest names a test
CTEST_NAME = re.compile(r"^\w+\.(?:\w+/)?(\w+\.\w+)(?:/.*)?$")
NAMED = re.compile(r"`([^`]+)`(\s*\(conditional: [^)]+\))?")


def rows_of(text):
    """[(number, where, tests)] of the table; tests: [(pattern, is it conditional)]."""
    rows = []
    for line in text.splitlines():
        match = ROW.match(line)
        if not match:
            continue
        cells = [cell.strip() for cell in match[2].split("|")]
        if len(cells) != 4:
            rows.append((int(match[1]), None, None))
            continue
        where = re.findall(r"`([^`]+)`", cells[2])
        tests = [(pattern, bool(condition)) for pattern, condition in NAMED.findall(cells[3])]
        rows.append((int(match[1]), where, tests))
    return rows


def plain_name(name):
    """Suite.Name of a GoogleTest in ctest's list; None for any other test."""
    match = CTEST_NAME.match(name)
    return match[1] if match else None


def faults_of(text, exists, listed, results):
    """One line for each fault. listed: the tests that ctest knows; results: {name: "passed", "skipped" or "failed"}."""
    rows = rows_of(text)
    faults = []
    count = collections.Counter(number for number, _, _ in rows)
    faults += [f"threat {number} has no row" for number in THREATS if number not in count]
    faults += [f"threat {number} has {times} rows" for number, times in sorted(count.items()) if times > 1]
    faults += [f"threat {number} is none of {THREATS[0]} to {THREATS[-1]}" for number in sorted(count) if number not in THREATS]
    by_name = collections.defaultdict(list)
    for name in listed:
        if plain_name(name):
            by_name[plain_name(name)].append(name)
    for number, where, tests in rows:
        if where is None:
            faults.append(f"threat {number}: the row has not five columns")
            continue
        if not where:
            faults.append(f"threat {number}: no file is named")
        faults += [f"threat {number}: there is no {path}" for path in where if not exists(path)]
        if not tests:
            faults.append(f"threat {number}: no test is named")
        for pattern, conditional in tests:
            matching = [name for plain in sorted(by_name) if fnmatch.fnmatchcase(plain, pattern) for name in by_name[plain]]
            if not matching:
                faults.append(f"threat {number}: no test is called {pattern}")
            for name in matching:
                result = results.get(name)
                if result is None:
                    faults.append(f"threat {number}: {name} did not run")
                elif result == "failed":
                    faults.append(f"threat {number}: {name} failed")
                elif result == "skipped" and not conditional:
                    faults.append(f"threat {number}: {name} was skipped, and {pattern} is not marked as conditional")
    return faults


def read_results(path):
    """{test: "passed", "skipped" or "failed"} from ctest's JUnit file; what was not started is not in it."""
    results = {}
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        skipped = case.find("skipped")
        if case.get("status") == "run":
            results[case.get("name")] = "passed"
        elif case.get("status") == "fail":
            results[case.get("name")] = "failed"
        elif skipped is not None and "SKIP_REGULAR_EXPRESSION" in skipped.get("message", ""):
            results[case.get("name")] = "skipped"
    return results


def list_tests(build):
    done = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"check_threats: ctest cannot list the tests of {build}: {done.stderr.strip()}")
    return [test["name"] for test in json.loads(done.stdout)["tests"]]


def self_test():
    """Each planted table must be told exactly its fault; the good one none."""
    listed = [f"room.Threat{n:02}_X.Holds" for n in THREATS] + [
        "sim.Seeds/Threat44_Scribble.Same/1", "sim.Seeds/Threat44_Scribble.Same/2", "threats.Threat50_Ring.Reads"]
    passed = dict.fromkeys(listed, "passed")

    def row(n, where="`src/a.cpp`", tests=None):
        return f"| {n} | a threat | a defence | {where} | {tests or f'`Threat{n:02}_X.*`'} |\n"

    def table(changed):
        return "| # | threat | defence | where | test |\n| --- | --- | --- | --- | --- |\n" + "".join(
            changed.get(n, row(n)) for n in THREATS)

    ring = row(50, tests="`Threat50_X.Holds`; `Threat50_Ring.*` (conditional: io_uring)")
    cases = [
        ("good", {}, passed, []),
        ("parameters", {44: row(44, tests="`Threat44_Scribble.Same`")}, passed, []),
        ("a row is missing", {12: ""}, passed, ["threat 12 has no row"]),
        ("a row stands twice", {12: row(12) * 2}, passed, ["threat 12 has 2 rows"]),
        ("a number that is none", {63: row(63) + row(99, tests="`Threat63_X.*`")}, passed,
         [f"threat 99 is none of 1 to {THREATS[-1]}"]),
        ("a cell is missing", {12: "| 12 | a | b | `src/a.cpp` |\n"}, passed, ["threat 12: the row has not five columns"]),
        ("no file", {12: row(12, where="somewhere")}, passed, ["threat 12: no file is named"]),
        ("a file that is gone", {12: row(12, where="`src/gone.cpp`")}, passed, ["threat 12: there is no src/gone.cpp"]),
        ("no test", {12: row(12, tests="by hand")}, passed, ["threat 12: no test is named"]),
        ("a misspelt test", {12: row(12, tests="`Threat12_Y.*`")}, passed, ["threat 12: no test is called Threat12_Y.*"]),
        ("a test by the room's name", {12: row(12, tests="`room.Threat12_X.*`")}, passed,
         ["threat 12: no test is called room.Threat12_X.*"]),
        ("did not run", {}, {k: v for k, v in passed.items() if k != listed[11]}, ["threat 12: room.Threat12_X.Holds did not run"]),
        ("one of two did not run", {44: row(44, tests="`Threat44_Scribble.*`")},
         {k: v for k, v in passed.items() if not k.endswith("/2")}, ["threat 44: sim.Seeds/Threat44_Scribble.Same/2 did not run"]),
        ("failed", {}, passed | {listed[11]: "failed"}, ["threat 12: room.Threat12_X.Holds failed"]),
        ("skipped", {}, passed | {listed[11]: "skipped"},
         ["threat 12: room.Threat12_X.Holds was skipped, and Threat12_X.* is not marked as conditional"]),
        ("conditional, skipped", {50: ring}, passed | {"threats.Threat50_Ring.Reads": "skipped"}, []),
        ("conditional, not started", {50: ring}, {k: v for k, v in passed.items() if "Ring" not in k},
         ["threat 50: threats.Threat50_Ring.Reads did not run"]),
        ("nothing ran", {}, {}, [f"threat {n}: room.Threat{n:02}_X.Holds did not run" for n in THREATS]),
    ]
    wrong = 0
    for name, changed, results, expected in cases:
        told = faults_of(table(changed), lambda path: path == "src/a.cpp", listed, results)
        if told != expected:
            print(f"self-test: {name}: expected {expected}, told {told}")
            wrong += 1
    with tempfile.TemporaryDirectory() as folder:
        junit = pathlib.Path(folder) / "results.xml"
        junit.write_text('<testsuite><testcase name="a.B.C" status="run"/><testcase name="a.B.D" status="fail"><failure/></testcase>'
                         '<testcase name="a.B.E" status="notrun"><skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/></testcase>'
                         '<testcase name="a.B.F" status="disabled"><skipped message="Disabled"/></testcase></testsuite>')
        if read_results(junit) != {"a.B.C": "passed", "a.B.D": "failed", "a.B.E": "skipped"}:
            print(f"self-test: results read as {read_results(junit)}")
            wrong += 1
    print(f"self-test: {len(cases) + 1} cases, {wrong} judged wrongly")
    return wrong == 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return 0 if self_test() else 1
    if len(sys.argv) != 4:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    root, build, results = map(pathlib.Path, sys.argv[1:])
    table = root / "docs" / "threat-model.md"
    for path in (table, build / "CTestTestfile.cmake", results):
        if not path.is_file():
            print(f"check_threats: there is no {path}", file=sys.stderr)
            return 2
    try:
        ran = read_results(results)
    except xml.etree.ElementTree.ParseError as error:
        print(f"check_threats: {results}: {error}", file=sys.stderr)
        return 2
    faults = faults_of(table.read_text(), lambda path: (root / path).exists(), list_tests(build), ran)
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{len(THREATS)} threats, each met by tests that ran")
    return 1 if faults else 0


sys.exit(main())
