#!/usr/bin/env python3
"""What the tests executed of src/, held to a floor.

  coverage.py BUILD          counts what a coverage build in BUILD executed, writes BUILD/html/index.html and
                             BUILD/missed.txt, and fails below scripts/coverage_floor.txt
  coverage.py --self-test    shows that too little is noticed

A branch counts once, where it is written, and is taken if it is in any instance of its template or
in any file that includes its header: the coverage build inlines nothing, not even what always is,
and gcovr adds up what stands on one line. Branches of exceptions do not count, and neither do the
failing branches of EXCLAVE_CHECK and EXCLAVE_DCHECK: the program stops there. Whatever else is left
out carries a GCOVR_EXCL marker and its reason in the source.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLOOR = ROOT / "scripts" / "coverage_floor.txt"
Share = collections.namedtuple("Share", "covered total")


def percent(share):
    return 100.0 * share.covered / share.total if share.total else 0.0


def read_floor(text):
    """{"lines": percent, "branches": percent}; ValueError says what is wrong."""
    floor = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            name, value = words[0], float(words[1])
        except (IndexError, ValueError):
            raise ValueError(f"line {number}: not a name and a percentage") from None
        if name not in ("lines", "branches") or len(words) != 2 or not 0 <= value <= 100:
            raise ValueError(f"line {number}: want 'lines' or 'branches' and a percentage")
        floor[name] = value
    if len(floor) != 2:
        raise ValueError("want a floor for lines and one for branches")
    return floor


def measure(report):
    """The shares of lines and branches, and one text for each line that is missed, from gcovr's JSON."""
    lines, branches, missed = [0, 0], [0, 0], []
    for file in report["files"]:
        for line in file["lines"]:
            if line.get("gcovr/noncode") or line.get("gcovr/excluded"):
                continue
            lines[1] += 1
            lines[0] += line["count"] != 0
            counts = [branch["count"] for branch in line["branches"] if not branch.get("throw")]
            taken = sum(count != 0 for count in counts)
            branches[1] += len(counts)
            branches[0] += taken
            if line["count"] == 0:
                missed.append(f"{file['file']}:{line['line_number']}: never executed")
            elif taken != len(counts):
                missed.append(f"{file['file']}:{line['line_number']}: {taken} of {len(counts)} branches")
    return Share(*lines), Share(*branches), missed


def faults(lines, branches, floor):
    """What is below the floor, one line each."""
    found = []
    for name, share in (("lines", lines), ("branches", branches)):
        if share.total == 0:
            found.append(f"no {name} were counted: is this a coverage build, and did the tests run?")
        elif percent(share) < floor[name]:
            found.append(f"{name}: {percent(share):.3f} % is less than the {floor[name]} % of {FLOOR.name}: test what "
                         "is missed, or say beside the line why it cannot be")
    return found


def run(build):
    floor = read_floor(FLOOR.read_text())
    report = build / "coverage.json"
    html = build / "html"
    html.mkdir(exist_ok=True)
    command = ["gcovr", "--root", ROOT, "--filter", f"{ROOT}/src/", "--object-directory", build, build,
               "--exclude-throw-branches", "--exclude-unreachable-branches",
               "--exclude-branches-by-pattern", r".*\bEXCLAVE_D?CHECK\(.*",
               "--json", report, "--html-details", html / "index.html"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"coverage.py: gcovr failed: {done.stderr.strip()}")
    lines, branches, missed = measure(json.loads(report.read_text()))
    (build / "missed.txt").write_text("".join(line + "\n" for line in missed))
    for name, share in (("lines", lines), ("branches", branches)):
        print(f"coverage of src/: {percent(share):.2f} % of {name} ({share.covered} of {share.total})")
    print(f"see {html}/index.html, and {build}/missed.txt for what is missed")
    for fault in faults(lines, branches, floor):
        print(f"coverage.py: {fault}", file=sys.stderr)
    return 1 if faults(lines, branches, floor) else 0


def self_test():
    line = {"line_number": 7, "count": 3, "branches": [{"count": 1}, {"count": 0}, {"count": 0, "throw": True}]}
    report = {"files": [{"file": "src/a.cpp", "lines": [line, {"line_number": 8, "count": 0, "branches": []},
                                                       {"line_number": 9, "count": 0, "branches": [],
                                                        "gcovr/excluded": True}]}]}
    lines, branches, missed = measure(report)
    assert lines == Share(1, 2) and branches == Share(1, 2), (lines, branches)
    assert missed == ["src/a.cpp:7: 1 of 2 branches", "src/a.cpp:8: never executed"], missed
    assert len(faults(lines, branches, {"lines": 50.1, "branches": 50.1})) == 2
    assert faults(lines, branches, {"lines": 50.0, "branches": 50.0}) == []
    assert len(faults(Share(0, 0), branches, {"lines": 0.0, "branches": 0.0})) == 1
    assert read_floor("# why\nlines 99.5\nbranches 98 # x\n") == {"lines": 99.5, "branches": 98.0}
    for wrong in ("", "lines 5\n", "lines x\nbranches 1\n", "lines 1\nbranches 101\n", "rows 1\nbranches 1\n"):
        try:
            read_floor(wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)
    print("coverage.py: self-test passed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", type=pathlib.Path, metavar="BUILD")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if arguments.build is None or not arguments.build.is_dir():
        parser.error("BUILD is not a folder")
    try:
        return run(arguments.build.resolve())
    except ValueError as error:
        sys.exit(f"coverage.py: {FLOOR.name}: {error}")


if __name__ == "__main__":
    sys.exit(main())
