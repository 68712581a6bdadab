#!/usr/bin/env python3
"""Counts instructions for one allocation and one free, with valgrind's callgrind: the same on any
machine, idle or busy.

  count.py BUILD_DIR [--only a,c3] [--exclave-only]

Each workload runs N and 3 N times; the difference is free of set-up and warm-up. The harness (null)
is in every figure.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import run  # the driver: it knows the peers

TIMES = {"a": 20_000, "b": 30_000, "c3": 30_000, "c4": 30_000, "d": 3_000}


def count(program, workload, contender, times):
    """(pairs, instructions) of one run, set-up included."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", str(program), workload,
             contender.policy, str(times)],
            capture_output=True, text=True, env={**os.environ, **contender.env})
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        sys.exit(f"count: {workload} {contender.name} failed:\n{done.stderr}")
    return int(done.stdout), int(found[1])


def per_pair(program, workload, contender):
    few, base = count(program, workload, contender, TIMES[workload])
    many, all_of_it = count(program, workload, contender, 3 * TIMES[workload])
    return (all_of_it - base) / (many - few)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--only", default="a,b,c3,c4,d")
    parser.add_argument("--exclave-only", action="store_true")
    options = parser.parse_args()
    program = options.build_dir / "exclave_bench_count"
    workloads = options.only.split(",")
    if set(workloads) - set(TIMES):
        parser.error(f"workloads are {' '.join(TIMES)}")
    everyone, _ = run.contenders([], quick=True)
    everyone = [c for c in everyone if c.only is None]
    if options.exclave_only:
        everyone = [c for c in everyone if c.name in ("null", "exclave")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = {(w, c.name): pool.submit(per_pair, program, w, c) for w in workloads for c in everyone}
        rows = [[w, *(f"{found[w, c.name].result():.1f}" for c in everyone)] for w in workloads]
    print("instructions for one allocation and one free")
    run.table(["", *(c.name for c in everyone)], rows)


if __name__ == "__main__":
    main()
