#!/usr/bin/env python3
"""Takes the checks of the library out, one at a time, and shows that a test fails for each.

  mutants.py [--files GLOB...] [--sample N] [--seed S] [--jobs J] [--budget SECONDS] [--again] [--build DIR]
                          mutates, prints, writes DIR/report.txt (DIR: build/mutants)
  mutants.py --self-test  shows that the tool finds what it should

A mutant is one change to one expression of src/ or ports/process/: a guard that never (or always) holds, an operand of &&
or || left out, a comparison flipped, a 1 that becomes 0 in a bound, a check dropped, a verifier that always says yes, a state
that is stored without being compared. All of them are compiled at once into a copy of the tree, and EXCLAVE_MUTANT chooses
one when a program starts (cut.py, mutates.hpp); so a mutant costs no compilation. Each test is run once to see
which mutants' places it comes by; a mutant is then tried by those tests only, its own room's and the short ones first, and
is killed by the first that fails, crashes, hangs or eats memory. It survives when no test is left, or when the tests that it
passed take --budget (6 s) together; more of them could only kill more. --again tries the survivors of the last run.

Not mutated: constant expressions, EXCLAVE_DCHECK, validate() and its helpers (the tests' own instrument), memory orders.
equivalent.txt lists the mutants that change nothing that can be seen, each with its reason.

Exit status: 0 when all tried mutants were killed, 1 when some survived or equivalent.txt names mutants that are not there,
2 for bad arguments or when the tests fail without any mutant.
"""
import argparse
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import cut  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COPIED = ["CMakeLists.txt", "cmake", "include", "src", "ports", "sim", "tests", "scripts", "malloc"]
MUTATED = ["src", "ports/process"]
ROOMS = ["base", "port", "region", "page", "slab", "access", "capi", "ports", "heap", "memcall", "sim", "threats"]
# They read machine code, which has the mutants' switches in it.
LEFT_OUT = re.compile(r"ObjectCode|MachineCode")
SHORT_S = 0.3          # tests below this share a process
TOGETHER_S = 4.0       # and so many seconds of them at most
LEAST_TIMEOUT_S = 10
MOST_BYTES = 4 << 30


class Fault(Exception):
    """What the user can mend: one line, exit status 2."""


def all_mutants(root):
    """[(file number, path, text, mutants)] for every source that is mutated."""
    found = []
    files = sorted(file for top in MUTATED for file in (root / top).rglob("*") if file.suffix in (".cpp", ".hpp"))
    for number, file in enumerate(files):
        path = str(file.relative_to(root))
        text = file.read_text()
        found.append((number, path, text, cut.mutants_of(path, text)))
    return found


def read_equivalent(path):
    """{key: reason}. An entry is a line with the mutant's name, then indented lines with the reason."""
    entries = {}
    name = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            if name is None:
                raise Fault(f"{path.name}:{number}: a reason without a mutant")
            entries[name] = (entries[name] + " " + line.strip()).strip()
        else:
            name = line.strip()
            if name in entries:
                raise Fault(f"{path.name}:{number}: named twice")
            entries[name] = ""
    for name, reason in entries.items():
        if not reason:
            raise Fault(f"{path.name}: no reason given for: {name}")
    return entries


def put(path, text):
    """Writes the file only when it changes, so that what was built stays."""
    if path.exists() and path.read_bytes() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def write_tree(sources, uncompilable, tree):
    """The copy of the tree with all mutants in it."""
    mutated = {}
    for number, path, text, mutants in sources:
        kept = [(i, m) for i, m in enumerate(mutants) if m.key() not in uncompilable]
        mutated[path] = cut.rewritten(text, kept, number * cut.PER_FILE).encode()
    wanted = set()
    for top in COPIED:
        files = [ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*")
        for file in files:
            if not file.is_file() or "__pycache__" in file.parts:
                continue
            path = file.relative_to(ROOT)
            wanted.add(path)
            put(tree / path, mutated.get(str(path)) or file.read_bytes())
    for name, place in (("mutates.cpp", "src/base/mutates.cpp"), ("mutates.hpp", "mutates.hpp")):
        wanted.add(pathlib.Path(place))
        put(tree / place, (HERE / name).read_bytes())
    for file in list(tree.rglob("*")):
        if file.is_file() and file.relative_to(tree) not in wanted:
            file.unlink()


def compile_all(sources, build, jobs):
    """Compiles the copy; what does not compile is left out, and named in the answer."""
    tree, objects = build / "tree", build / "build"
    remembered = build / "uncompilable.json"
    uncompilable = set(json.loads(remembered.read_text())) if remembered.exists() else set()
    for _ in range(10):
        write_tree(sources, uncompilable, tree)
        if not (objects / "build.ninja").exists():
            done = subprocess.run(
                ["cmake", "-S", tree, "-B", objects, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1",
                 f"-DCMAKE_CXX_FLAGS=-w -include {tree / 'mutates.hpp'}", "-DEXCLAVE_BUILD_TESTS=ON", "-DEXCLAVE_BUILD_TOOLS=OFF",
                 "-DEXCLAVE_BUILD_EXAMPLES=OFF", "-DEXCLAVE_BUILD_MALLOC=OFF"], capture_output=True, text=True)
            if done.returncode != 0:
                raise Fault(f"cmake fails: {done.stderr.strip().splitlines()[-1:]}")
        targets = [f"{room}_test" for room in ROOMS if list((tree / "tests" / room).glob("*_test.cpp"))]
        with open(build / "compile.log", "w", encoding="utf-8") as log:
            done = subprocess.run(["ninja", "-C", objects, "-k", "0", f"-j{jobs}", *targets], stdout=log, stderr=log)
        if done.returncode == 0:
            return uncompilable, targets
        before = len(uncompilable)
        complaints = (build / "compile.log").read_text(errors="replace")
        for path, line in set(re.findall(rf"^{re.escape(str(tree))}/((?:src|ports)/[^:\n]+):(\d+):", complaints, re.M)):
            for _, name, text, mutants in sources:
                for mutant in mutants if name == path else []:
                    first = text.count("\n", 0, mutant.begin) + 1
                    if first <= int(line) <= first + text.count("\n", mutant.begin, mutant.end):
                        uncompilable.add(mutant.key())
        if len(uncompilable) == before:
            raise Fault(f"the copy does not compile, and not for a mutant: see {build / 'compile.log'}")
        remembered.write_text(json.dumps(sorted(uncompilable), indent=1))
    raise Fault(f"the copy does not compile: see {build / 'compile.log'}")


def resident_bytes(group):
    """What a process has in memory; 0 when it is gone."""
    try:
        with open(f"/proc/{group}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def run_tests(program, tests, environment, timeout_s):
    """("passed" | "failed" | "crashed" | "hung" | "ate memory", the failing test) of one run."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [program, "--gtest_brief=1", "--gtest_fail_fast", "--gtest_filter=" + ":".join(tests)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | environment, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
        deadline = time.monotonic() + timeout_s
        verdict = None
        while process.poll() is None and verdict is None:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    verdict = "hung"
                elif resident_bytes(process.pid) > MOST_BYTES:
                    verdict = "ate memory"
        try:  # children that a test left behind, too: they are in its session
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    failed = re.search(r"^\[  FAILED  \] ([\w/.]+)", text, re.M)
    name = failed[1].rstrip(",") if failed else tests[0] if len(tests) == 1 else "one of " + str(len(tests))
    if verdict is not None:
        return verdict, name
    if process.returncode == 0:
        return "passed", ""
    return ("failed" if failed else "crashed"), name


def list_tests(program):
    lines = subprocess.run([program, "--gtest_list_tests"], capture_output=True, text=True, check=True).stdout.splitlines()
    tests, suite = [], ""
    for line in lines:
        name = line.split("#")[0].rstrip()
        if not name.startswith(" "):
            suite = name
        elif not LEFT_OUT.search(suite + name) and "DISABLED_" not in suite + name:
            tests.append(suite + name.strip())
    return tests


def baseline(build, targets, numbers, jobs, budget_s, say):
    """[(room, test, seconds, the numbers of the mutants whose places it comes by)], kept while the programs are the same.
    Of a test that takes more than the budget nothing is known (None), and it is not asked."""
    programs = {target.removesuffix("_test"): build / "build" / "tests" / target for target in targets}
    digests = {room: hashlib.sha256(program.read_bytes()).hexdigest() for room, program in programs.items()}
    kept = build / "baseline.json"
    known = {}
    if kept.exists():
        data = json.loads(kept.read_text())
        known = {(test[0], test[1]): test for test in data["tests"] if data["programs"].get(test[0]) == digests[test[0]] and
                 (test[3] is not None or test[2] >= budget_s)}
    work = [(room, test) for room in programs for test in list_tests(programs[room]) if (room, test) not in known]
    if not work:
        return programs, [test for test in known.values() if test[3] is not None]
    say(f"running {len(work)} tests once, to see what each comes by")

    def once(room, test):
        with tempfile.NamedTemporaryFile(dir=build) as met:
            met.truncate(numbers)
            start = time.monotonic()
            verdict, _ = run_tests(programs[room], [test], {"EXCLAVE_MUTANTS_MET": met.name}, budget_s)
            seconds = time.monotonic() - start
            return verdict, round(seconds, 3), [i for i, byte in enumerate(pathlib.Path(met.name).read_bytes()) if byte]

    def one(item):
        verdict, seconds, places = once(*item)
        if verdict not in ("passed", "hung"):  # a busy machine gets a second chance
            verdict, seconds, places = once(*item)
        if verdict == "hung":
            return *item, budget_s, None, "passed"
        return *item, seconds, places, verdict

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, work))
    tests = list(known.values()) + [result[:4] for result in results if result[4] == "passed"]
    kept.write_text(json.dumps({"programs": digests, "tests": tests}))
    broken = [f"{room}.{test} ({verdict})" for room, test, _, _, verdict in results if verdict != "passed"]
    if broken:
        raise Fault(f"without any mutant these tests fail: {', '.join(broken)}")
    return programs, [test for test in tests if test[3] is not None]


def batches(tests, own_room):
    """(room, [tests], seconds), the likeliest evidence first: the own room's tests, other rooms' short ones, long ones."""
    short, long = {}, []
    for room, test, seconds in tests:
        if seconds <= SHORT_S:
            short.setdefault(room, []).append((seconds, test))
        else:
            long.append((room, [test], seconds))
    found = []
    for room in sorted(short, key=lambda r: (r != own_room, sum(s for s, _ in short[r]))):
        batch, total = [], 0.0
        for seconds, test in sorted(short[room]):
            if batch and total + seconds > TOGETHER_S:
                found.append((room, batch, total))
                batch, total = [], 0.0
            batch.append(test)
            total += seconds
        found.append((room, batch, total))
    likely = [b for b in long if b[0] == own_room and b[2] <= TOGETHER_S]
    own = [b for b in found if b[0] == own_room] + sorted(likely, key=lambda b: b[2])
    return own + [b for b in found if b[0] != own_room] + sorted((b for b in long if b not in likely), key=lambda b: b[2])


def room_of(path):
    return path.split("/")[1] if path.startswith("src/") else "ports"


def try_mutant(number, path, tests_by_number, programs, budget_s):
    """(verdict, by which test)"""
    tests = tests_by_number.get(number, [])
    if not tests:
        return "unreached", "no short test comes by"
    spent, passed = 0.0, 0
    for room, names, seconds in batches(tests, room_of(path)):
        if passed and spent + seconds > budget_s:
            break
        verdict, name = run_tests(programs[room], names, {"EXCLAVE_MUTANT": str(number)}, LEAST_TIMEOUT_S + 8 * seconds)
        if verdict != "passed":
            return ("timeout" if verdict == "hung" else "killed"), f"{room}.{name}"
        spent += seconds
        passed += len(names)
    return "survived", f"passes {passed} of {len(tests)} tests"


def choose(sources, uncompilable, equivalent, patterns, sample, seed):
    """[(number, mutant)] to try, in the order of the sources or of the sample."""
    chosen = []
    for number, path, _, mutants in sources:
        if patterns and not any(fnmatch.fnmatch(path, pattern) for pattern in patterns):
            continue
        chosen += [(number * cut.PER_FILE + i, m) for i, m in enumerate(mutants)
                   if not m.same and m.key() not in uncompilable and m.key() not in equivalent]
    if sample is not None and sample < len(chosen):
        chosen = random.Random(seed).sample(chosen, sample)
    return chosen


def report_text(sources, uncompilable, equivalent, results, seconds, header):
    """The report: counts by file, then every survivor."""
    lines = [header, "", f"{'file':42} {'mutants':>8} {'tried':>6} {'killed':>7} {'timeout':>8} {'survived':>9} "
                         f"{'equivalent':>11} {'uncompiled':>11}"]
    totals = [0] * 7
    for number, path, _, mutants in sources:
        ours = [results[n] for n in range(number * cut.PER_FILE, number * cut.PER_FILE + len(mutants)) if n in results]
        if not ours:
            continue
        row = [sum(not m.same for m in mutants), len(ours), sum(v == "killed" for v, _ in ours), sum(v == "timeout" for v, _ in ours),
               sum(v in ("survived", "unreached") for v, _ in ours), sum(m.key() in equivalent for m in mutants),
               sum(m.key() in uncompilable for m in mutants)]
        totals = [a + b for a, b in zip(totals, row)]
        lines.append("{:42} {:8} {:6} {:7} {:8} {:9} {:11} {:11}".format(path, *row))
    lines.append("{:42} {:8} {:6} {:7} {:8} {:9} {:11} {:11}".format("all of these", *totals))
    lines += ["", f"{seconds:.0f} s", "", "survivors:"]
    for number, path, _, mutants in sources:
        for i, mutant in enumerate(mutants):
            verdict, why = results.get(number * cut.PER_FILE + i, ("", ""))
            if verdict in ("survived", "unreached"):
                lines.append(f"{path}:{mutant.line}: {mutant.change} ({why})\n    {mutant.key()}")
    return "\n".join(lines) + "\n", totals


def self_test():
    """A made-up source: every check must be found, and the rewritten text must hold each change."""
    text = '''#include <x>  // if (a) return 1;
inline bool whole(int a, int b) { return a != b && a < 4; }
int f(int a, int* p) {
  constexpr int kBound = 4 - 1;
  static_assert(kBound == 3 && kBound < 4);
  if (a == 0) return -kEINVAL;  // zero
  if (const int bad = check(a); bad != 0 || p == nullptr) return bad;
  EXCLAVE_CHECK(p != nullptr);
  EXCLAVE_DCHECK(a > 3);
  const std::size_t last = a - 1;
  if (state->compare_exchange_strong(expected, State::kNew, std::memory_order_acq_rel)) return 0;
  if (int* q = g()) return 2;
  while (a <= last) ++a;
  const int least = a < p[1] ? a : p[1];
  const int other = (a < b ? a : c);
  return use("a == b && c");
}
bool X::validate() const noexcept {
  if (a == 0) return false;
}
'''
    found = [(m.line, m.kind, m.change) for m in cut.mutants_of("src/a/b.cpp", text) if not m.same]
    expected = [
        (2, "term", "without `a != b`"), (2, "term", "without `a < 4`"),
        (2, "compare", "!= to == in `a != b && a < 4`"), (2, "compare", "< to <= in `a != b && a < 4`"),
        (6, "guard", "never"), (6, "compare", "== to != in `a == 0`"),
        (7, "guard", "never"), (7, "term", "without `bad != 0`"), (7, "term", "without `p == nullptr`"),
        (7, "compare", "!= to == in `bad != 0 || p == nullptr`"), (7, "compare", "== to != in `bad != 0 || p == nullptr`"),
        (8, "check", "not checked"), (8, "compare", "!= to == in `p != nullptr`"),
        (10, "bound", "1 to 0 in `a - 1`"),
        (11, "guard", "never"), (11, "state", "state not compared"),
        (13, "compare", "<= to < in `a <= last`"),
        (15, "compare", "< to <= in `(a < b ? a : c)`"),
    ]
    wrong = [f"not found: {e}" for e in expected if e not in found] + [f"found: {f}" for f in found if f not in expected]
    mutants = list(enumerate(cut.mutants_of("src/a/b.cpp", text)))
    new = cut.rewritten(text, mutants, 0)
    if new.count("\n") != text.count("\n"):
        wrong.append("lines moved")
    for index, _ in mutants:
        if f"exclave_mutates({index})" not in new:
            wrong.append(f"mutant {index} is not in the text")
    if "(state->store(State::kNew, std::memory_order_relaxed), true)" not in new:
        wrong.append("the stored state is wrong")
    order = batches([("heap", "A.slow", 2.0), ("region", "B.slow", 3.0), ("region", "B.quick", 0.1), ("heap", "A.quick", 0.01)],
                    "region")
    if [b[1] for b in order] != [["B.quick"], ["B.slow"], ["A.quick"], ["A.slow"]]:
        wrong.append(f"wrong order of tests: {order}")
    with tempfile.TemporaryDirectory() as folder:
        listed = pathlib.Path(folder) / "equivalent.txt"
        for bad in ("a | b | c\n", "  a reason alone\n", "a | b | c\n  why\na | b | c\n  why\n"):
            listed.write_text(bad)
            try:
                read_equivalent(listed)
                wrong.append(f"accepted as a list: {bad!r}")
            except Fault:
                pass
    print("\n".join(wrong) if wrong else f"self-test: {len(expected)} mutants found, and no other")
    return not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], usage=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="*", default=[])
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget", type=float, default=6.0)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--build", default=str(ROOT / "build" / "mutants"))
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return 0 if self_test() else 1
    if options.sample is not None and options.sample < 1:
        raise Fault("--sample: a number of mutants, 1 or more")
    if options.seed is not None and options.sample is None:
        raise Fault("--seed: only with --sample")
    if not options.budget > 0:
        raise Fault("--budget: seconds, more than 0")
    if options.jobs < 1:
        raise Fault("--jobs: 1 or more")
    sources = all_mutants(ROOT)
    for pattern in options.files:
        if not any(fnmatch.fnmatch(path, pattern) for _, path, _, _ in sources):
            raise Fault(f"no source of {' or '.join(MUTATED)} matches {pattern}")
    equivalent = read_equivalent(HERE / "equivalent.txt")
    known = {mutant.key() for source in sources for mutant in source[3]}
    rotten = [name for name in equivalent if name not in known]
    for name in rotten:
        print(f"equivalent.txt: no such mutant any more: {name}")
    seed = options.seed if options.seed is not None else random.randrange(1 << 31)

    build = pathlib.Path(options.build).resolve()
    build.mkdir(parents=True, exist_ok=True)
    last = build / "results.json"  # what was found of each mutant when it was last tried
    start = time.monotonic()

    def say(text):
        print(f"[{time.monotonic() - start:5.0f} s] {text}", flush=True)

    say(f"compiling {sum(not m.same for s in sources for m in s[3])} mutants")
    uncompilable, targets = compile_all(sources, build, options.jobs)
    programs, tests = baseline(build, targets, len(sources) * cut.PER_FILE, options.jobs, options.budget, say)
    tests_by_number = {}
    for room, test, seconds, places in tests:
        for place in places:
            tests_by_number.setdefault(place, []).append((room, test, seconds))
    chosen = choose(sources, uncompilable, equivalent, options.files, options.sample, seed)
    if options.again:
        before = json.loads(last.read_text()) if last.exists() else {}
        chosen = [(n, m) for n, m in chosen if before.get(m.key(), [""])[0] in ("survived", "unreached")]
    header = f"{len(chosen)} mutants of {' '.join(options.files) or 'everything'}"
    if options.sample is not None:
        header += f", a sample with SEED={seed}"
    say(f"trying {header}, by {len(tests)} tests")
    results, lock = {}, threading.Lock()

    def one(item):
        number, mutant = item
        verdict, why = try_mutant(number, mutant.path, tests_by_number, programs, options.budget)
        with lock:
            results[number] = (verdict, why)
            if verdict in ("survived", "unreached"):
                say(f"survived: {mutant.path}:{mutant.line}: {mutant.change} ({why})")
            if len(results) % 50 == 0:
                say(f"{len(results)} of {len(chosen)}")

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, chosen))
    text, totals = report_text(sources, uncompilable, equivalent, results, time.monotonic() - start, header)
    (build / "report.txt").write_text(text)
    remembered = json.loads(last.read_text()) if last.exists() else {}
    remembered |= {m.key(): results[n] for n, m in chosen}
    last.write_text(json.dumps(remembered, indent=1))
    say(f"{totals[1]} tried: {totals[2]} killed, {totals[3]} timed out, {totals[4]} survived; "
        f"{len(equivalent)} are listed as equivalent, {len(uncompilable)} do not compile; see {build / 'report.txt'}")
    return 1 if totals[4] or rotten else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Fault as fault:
        print(f"mutants: {fault}", file=sys.stderr)
        sys.exit(2)
