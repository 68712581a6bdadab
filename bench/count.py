#!/usr/bin/env python3
"""Counts instructions for one allocation and one free, with valgrind's callgrind: the same on any
machine, idle or busy.

  count.py BUILD_DIR [--only a,c3] [--exclave-only]   a table; the harness (null) is in every figure
  count.py BUILD_DIR --check                          fails when exclave has grown beyond golden_counts.json
  count.py BUILD_DIR --update                         renews golden_counts.json

pa, pb and so on are the same in an attached pool; only exclave is counted there.

Each workload runs N and 3 N times; the difference is free of set-up and warm-up. The golden figures
are exclave's alone: null is subtracted. They hold for one compiler, which the file names.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import driver
import tables

TIMES = {"a": 20_000, "b": 30_000, "c3": 30_000, "c4": 30_000, "d": 3_000,
         "pa": 20_000, "pb": 30_000, "pc3": 30_000, "pc4": 30_000, "pd": 3_000}
GOLDEN = pathlib.Path(__file__).resolve().parent / "golden_counts.json"
# What may come without a reason: the larger of the two.
GROWTH, GROWTH_INSTRUCTIONS = 0.03, 3


def count(program, workload, contender, times):
    """(pairs, instructions) of one run, set-up included; None if it does not run under valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", str(program), workload,
             contender.policy, str(times)],
            capture_output=True, text=True, env={**os.environ, **contender.env})
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        if contender.peer:
            return None
        sys.exit(f"count: {workload} {contender.name} failed:\n{done.stderr}")
    return int(done.stdout), int(found[1])


def per_pair(program, workload, contender):
    few = count(program, workload, contender, TIMES[workload])
    many = few and count(program, workload, contender, 3 * TIMES[workload])
    return (many[1] - few[1]) / (many[0] - few[0]) if many else None


def count_all(program, workloads, everyone):
    """Instructions for one pair by (workload, name)."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = {(w, c.name): pool.submit(per_pair, program, w, c) for w in workloads for c in everyone
                 if c.policy != "malloc" or not w.startswith("p")}
        return {(w, c.name): found[w, c.name].result() if (w, c.name) in found else None
                for w in workloads for c in everyone}


def major_version(compiler):
    """What the figures depend on: `g++ 12` of `g++ (Debian 12.2.0-14) 12.2.0`, `clang 14` of `Debian clang version 14.0.6`."""
    versions = re.findall(r"\b(\d+)\.\d+\.\d+", compiler)
    return f"{'clang' if 'clang' in compiler else compiler.split()[0]} {versions[-1] if versions else '?'}"


def alone(found, workload):
    return round(found[workload, "exclave"] - found[workload, "null"], 1)


def check(found, workloads, compiler):
    """Compares with the golden file. Says what has grown, how to renew it; true if all is well."""
    golden = json.loads(GOLDEN.read_text())
    if major_version(compiler) != golden["compiler"]:
        print(f"count: the golden figures are for {golden['compiler']}, this build is by {major_version(compiler)}: not compared")
        return True
    rows, grown, shrunk = [], [], []
    for workload in workloads:
        was, now = golden["instructions_per_pair"].get(workload), alone(found, workload)
        if was is None:
            continue
        rows.append([workload, f"{was:.1f}", f"{now:.1f}", f"{now - was:+.1f}"])
        if abs(now - was) > max(GROWTH * was, GROWTH_INSTRUCTIONS):
            (grown if now > was else shrunk).append(f"{workload} {was:.1f} -> {now:.1f}")
    print("instructions of exclave for one allocation and one free, the harness subtracted")
    tables.table(["", "golden", "now", ""], rows)
    renew = "bench/count.py build/bench --update"
    if shrunk:
        print(f"count: fewer instructions than before in {', '.join(shrunk)}; to keep it so: {renew}")
    if grown:
        print(f"count: more instructions than before in {', '.join(grown)}; if that is worth it: {renew}")
    return not grown


def update(found, workloads, compiler):
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"instructions_per_pair": {}}
    golden["what"] = ("instructions of exclave for one pair by callgrind, the harness (null) subtracted; "
                      "renew with bench/count.py build/bench --update")
    golden["compiler"] = major_version(compiler)
    golden["instructions_per_pair"].update((w, alone(found, w)) for w in workloads)
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    print(f"count: {GOLDEN}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--only", default=",".join(TIMES))
    parser.add_argument("--exclave-only", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    program = options.build_dir / "exclave_bench_count"
    workloads = options.only.split(",")
    if set(workloads) - set(TIMES):
        parser.error(f"workloads are {' '.join(TIMES)}")
    if not program.is_file():
        sys.exit(f"count: {program} is not built")
    if options.check or options.update or options.exclave_only:
        everyone = [driver.Contender("null", "null"), driver.Contender("exclave", "exclave")]
    else:
        everyone = [c for c in driver.contenders(options.build_dir, quick=True)[0] if c.only is None]
    found = count_all(program, workloads, everyone)
    if options.update:
        update(found, workloads, driver.compiler(options.build_dir))
    elif options.check:
        sys.exit(0 if check(found, workloads, driver.compiler(options.build_dir)) else 1)
    else:
        print("instructions for one allocation and one free")
        tables.table(["", *(c.name for c in everyone)],
                     [[w, *("-" if found[w, c.name] is None else f"{found[w, c.name]:.1f}" for c in everyone)] for w in workloads])


if __name__ == "__main__":
    main()
