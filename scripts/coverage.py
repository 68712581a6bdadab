#!/usr/bin/env python3
"""What the tests executed of src/, held to a floor.

  coverage.py BUILD             counts what a coverage build in BUILD executed, writes BUILD/html/index.html and
                                BUILD/missed.txt, and fails below scripts/coverage_floor.txt
  coverage.py BUILD ROOM...     the same for src/ROOM, each held to its own floor: what its own tests execute of it
  coverage.py --has-floor ROOM  exit status 0 when it has one, else 1
  coverage.py --self-test       shows that too little is noticed

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


def read_floor(text, of="src"):
    """{"lines": percent, "branches": percent} of src/ or of a room; ValueError says what is wrong."""
    floor = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            room, shares = words[0], [float(word) for word in words[1:]]
        except ValueError:
            raise ValueError(f"line {number}: not a percentage") from None
        if len(shares) != 2 or not all(0 <= share <= 100 for share in shares):
            raise ValueError(f"line {number}: want src or a room, and the percentages of lines and branches")
        if room == of:
            floor = dict(zip(("lines", "branches"), shares))
    if not floor:
        raise ValueError(f"there is none for {of}")
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


def faults(lines, branches, floor, of="src"):
    """What is below the floor, one line each."""
    found = []
    for name, share in (("lines", lines), ("branches", branches)):
        if share.total == 0:
            found.append(f"{of}: no {name} were counted: is this a coverage build, and did the tests run?")
        elif percent(share) < floor[name]:
            found.append(f"{of}, {name}: {percent(share):.3f} % is less than the {floor[name]} % of {FLOOR.name}: test what "
                         "is missed, or say beside the line why it cannot be")
    return found


def run(build, rooms):
    floors = {of: read_floor(FLOOR.read_text(), of) for of in rooms or ["src"]}
    report = build / "coverage.json"
    html = build / "html"
    html.mkdir(exist_ok=True)
    command = ["gcovr", "--root", ROOT, "--filter", f"{ROOT}/src/" + (f"({'|'.join(rooms)})/" if rooms else ""), "--object-directory", build, build,
               "--exclude-throw-branches", "--exclude-unreachable-branches",
               "--exclude-branches-by-pattern", r".*\bEXCLAVE_D?CHECK\(.*",
               "--json", report, "--html-details", html / "index.html"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"coverage.py: gcovr failed: {done.stderr.strip()}")
    told = json.loads(report.read_text())
    missed, found = [], []
    for of, floor in floors.items():
        within = "src/" if of == "src" else f"src/{of}/"
        lines, branches, of_it = measure({"files": [file for file in told["files"] if file["file"].startswith(within)]})
        missed += of_it
        found += faults(lines, branches, floor, of)
        for name, share in (("lines", lines), ("branches", branches)):
            print(f"coverage of {within}: {percent(share):.2f} % of {name} ({share.covered} of {share.total})")
    (build / "missed.txt").write_text("".join(line + "\n" for line in missed))
    print(f"see {html}/index.html, and {build}/missed.txt for what is missed")
    for fault in found:
        print(f"coverage.py: {fault}", file=sys.stderr)
    return 1 if found else 0


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
    assert read_floor("# why\nsrc 99.5 98 # x\npage 90 80\n") == {"lines": 99.5, "branches": 98.0}
    assert read_floor("src 99.5 98\npage 90 80\n", "page") == {"lines": 90.0, "branches": 80.0}
    for wrong in ("", "src 5\n", "src x 1\n", "src 1 101\n", "page 1 1\n"):
        try:
            read_floor(wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)
    print("coverage.py: self-test passed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", type=pathlib.Path, metavar="BUILD")
    parser.add_argument("rooms", nargs="*", metavar="ROOM")
    parser.add_argument("--has-floor", metavar="ROOM")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if arguments.has_floor:
        try:
            read_floor(FLOOR.read_text(), arguments.has_floor)
        except ValueError:
            return 1
        return 0
    if arguments.build is None or not arguments.build.is_dir():
        parser.error("BUILD is not a folder")
    try:
        return run(arguments.build.resolve(), arguments.rooms)
    except ValueError as error:
        sys.exit(f"coverage.py: {FLOOR.name}: {error}")


if __name__ == "__main__":
    sys.exit(main())
