#!/usr/bin/env python3
"""Times memory calls, processes and a storm of mappings, natively and under `exclave exec`.

  exec_calls.py EXCLAVE BUILD_DIR                  seven rounds; writes BUILD_DIR/exec_calls.json
  exec_calls.py EXCLAVE BUILD_DIR --quick          a rough look in less than 20 s
  exec_calls.py EXCLAVE BUILD_DIR --only stress    some of: calls processes stress programs

EXCLAVE is the built command line, beside its loader; BUILD_DIR has the program exec_calls (bench/exec_calls.c). In each
round everything runs once natively and once inside, in an order drawn anew. Single calls are timed by the clock, a few
microseconds at a time; processes by processor time, that of their children in, for others on the machine get in their way. A
figure is the median within a round, then over the rounds; the ratio and the difference are taken within each round, then
the median.
"""
import argparse
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile

import driver
import real_programs
import tables
from results import CARE, nanoseconds, ratio_words
from samples import figure

PARTS = ["calls", "processes", "stress", "programs"]
FULL = {"rounds": 7, "batches": 500, "processes": 50, "operations": 100_000, "repeats": 3}
QUICK = {"rounds": 2, "batches": 60, "processes": 8, "operations": 10_000, "repeats": 1}
SEED = 7
SOURCE = pathlib.Path(__file__).resolve().parent / "exec_calls.c"


class Failure(Exception):
    """A run that did not work out."""


class Side:
    """Where programs run: natively, or inside."""

    def __init__(self, name, prefix):
        self.name, self.prefix = name, prefix

    def start(self, words, folder):
        """What it wrote, and the ns of processor time that it took."""
        before = cpu_ns()
        try:
            done = subprocess.run([*self.prefix, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder,
                                  env={**os.environ, "LC_ALL": "C"}, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"{words[0]} {self.name}: {error}") from error
        took = cpu_ns() - before
        if done.returncode != 0:
            raise Failure(f"{' '.join(words)} {self.name} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout, took


def cpu_ns():
    """Of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e9 * (used.ru_utime + used.ru_stime)


def told(text):
    """name: (calls in one operation, ns) of what the program wrote. What the system does not let it do is left out."""
    rows = [line.split("\t") for line in text.splitlines()]
    return {name: (int(calls), float(ns)) for name, calls, ns in rows if float(ns) > 0}


def programs(quick):
    """Whole runs of programs, each with its start: name, command. Those that are not here are left out."""
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    gcc = shutil.which("gcc")
    cc1 = gcc and subprocess.run([gcc, "-print-prog-name=cc1"], capture_output=True, text=True).stdout.strip()
    found = {"/bin/true": ["/bin/true"], "python3 -c pass": [python, "-c", "pass"]}
    if cc1 and os.path.isfile(cc1):
        found[f"cc1, {os.path.getsize(cc1) >> 20} MiB, --version"] = [cc1, "--version"]
        found["gcc -O2 -c, a file"] = [gcc, "-O2", "-c", str(SOURCE), "-o", "out.o"]
    if not quick:
        found["python3 at work"] = [python, "-c", real_programs.PYTHON_JSON]
    return {name: command for name, command in found.items() if os.access(command[0], os.X_OK)}


class Measured:
    """For each row its part, the calls of an operation, and for each side a figure of each round."""

    def __init__(self):
        self.rows = {}

    def add(self, part, name, calls, side, nanosecs):
        row = self.rows.setdefault((part, name), {"calls": calls, "native": [], "inside": []})
        row[side.name].append(nanosecs)

    def runs(self):
        for (part, name), row in self.rows.items():
            pairs = list(zip(row["native"], row["inside"]))
            if not pairs:
                continue
            native, inside = figure(row["native"]), figure(row["inside"])
            ratio = figure([b / a for a, b in pairs])
            more = figure([b - a for a, b in pairs])
            yield {"part": part, "name": name, "calls": row["calls"], "native_ns": native[0], "native_spread": native[1],
                   "inside_ns": inside[0], "inside_spread": inside[1], "ratio": ratio[0], "ratio_spread": ratio[1],
                   "more_ns": more[0], "more_ns_per_call": more[0] / row["calls"],
                   "samples": {"native": row["native"], "inside": row["inside"]}}


def take_turn(part, side, program, options, folder, measured):
    commands = {
        "calls": [["calls", options.batches]],
        "processes": [["processes", options.processes]],
        "stress": [["stress", threads, options.operations, SEED] for threads in (1, 2)],
    }
    for words in commands.get(part, []):
        output, _ = side.start([program, *map(str, words)], folder)
        for name, (calls, ns) in told(output).items():
            measured.add(part, name, calls, side, ns)
    if part == "programs":
        for name, command in programs(options.quick).items():
            times = [side.start(command, folder)[1] for _ in range(options.repeats)]
            measured.add(part, name, 1, side, figure(times)[0])


def measure(sides, program, options, progress):
    measured, order = Measured(), random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for part in options.only:
                for side in order.sample(sides, len(sides)):
                    progress.tell(f"round {number + 1} of {options.rounds}: {part}, {side.name}")
                    take_turn(part, side, program, options, folder, measured)
            progress.tell(f"round {number + 1} of {options.rounds} done", step=False)
    return measured


TITLES = {
    "calls": "ns of wall time for one operation; more: for each call",
    "processes": "ns of processor time, the child's in",
    "stress": "threads that map, touch, protect, resize, drop and unmap: ns for one operation",
    "programs": "ns of processor time from start to end; inside with the command line's own start",
}


def signed(nanosecs):
    return ("-" if nanosecs < 0 else "") + nanoseconds(abs(nanosecs))


def print_runs(runs):
    for part in PARTS:
        rows = [[r["name"], nanoseconds(r["native_ns"]) + tables.percent(r["native_spread"]),
                 nanoseconds(r["inside_ns"]) + tables.percent(r["inside_spread"]), ratio_words(r["ratio"]),
                 signed(r["more_ns_per_call"])] for r in runs if r["part"] == part]
        if rows:
            print(f"\n{part}: {TITLES[part]}")
            tables.table(["", "natively", "inside", "ratio", "more"], rows)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exclave", type=pathlib.Path)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", metavar="PARTS", default=",".join(PARTS), help=" ".join(PARTS))
    parser.add_argument("--rounds", type=int, help=f"{FULL['rounds']}; quick: {QUICK['rounds']}")
    options = parser.parse_args()
    given = options.only.split(",")
    if unknown := set(given) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))} (there are: {' '.join(PARTS)})")
    options.only = [part for part in PARTS if part in given]
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, not a number above 0")
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    for path in (options.exclave, options.build_dir / "exec_calls"):
        if not path.is_file() or not os.access(path, os.X_OK):
            parser.error(f"{path} is not a program; `make bench-exec` builds it")
    return options


def main():
    options = parse()
    program = str((options.build_dir / "exec_calls").resolve())
    sides = [Side("native", []), Side("inside", [str(options.exclave.resolve()), "exec", "--"])]
    usage, progress = driver.Usage(), driver.Progress()
    try:
        for side in sides:
            side.start(["/bin/true"], "/")
        measured = measure(sides, program, options, progress)
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    others, stolen = usage.of_others()
    machine = driver.describe_machine(options.build_dir, {}) | {
        "quick": options.quick, "rounds": options.rounds, "seconds": round(progress.elapsed(), 1),
        "used_by_others": round(others, 3), "stolen": round(stolen, 3)}
    runs = list(measured.runs())
    print_runs(runs)
    print()
    if others > CARE:
        print(f"bench: others used {100 * others:.0f} % of the processors meanwhile: take these figures with care")
    target = options.build_dir / "exec_calls.json"
    driver.write(target, json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
