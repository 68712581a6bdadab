#!/usr/bin/env python3
"""Does exclave_prove find planted mistakes? Each must end with status 1 and a counterexample.

  check_plants.py EXCLAVE_PROVE
"""
import re
import subprocess
import sys

COUNTEREXAMPLE = re.compile(r"NOT PROVEN +(\S+) .*: counterexample [\w.]+ = ")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def main():
    if len(sys.argv) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    program = sys.argv[1]
    try:
        listed = {what: [line.split()[0] for line in run(program, what).stdout.splitlines()]
                  for what in ("--list", "--list-plants")}
    except OSError as error:
        print(f"check_plants: {error}", file=sys.stderr)
        return 2
    theorems, plants = listed["--list"], listed["--list-plants"]
    faults = []
    for plant in plants:
        ended = run(program, "--plant", plant)
        found = COUNTEREXAMPLE.match(ended.stdout)
        if ended.returncode != 1 or not found or found[1] != plant:
            faults.append(f"{plant}: status {ended.returncode}, no counterexample: {(ended.stdout + ended.stderr).strip()}")
    # Every theorem can fail.
    faults += [f"{theorem}: no mistake to plant" for theorem in theorems
               if not any(plant.startswith(theorem + ".") for plant in plants)]
    if not plants:
        faults.append("no plants")
    for bad in (["--plant", "no_such_plant"], ["--plant"], ["nonsense"]):
        ended = run(program, *bad)
        if ended.returncode != 2 or len(ended.stderr.splitlines()) != 1 or ended.stdout:
            faults.append(f"{' '.join(bad)}: status {ended.returncode}, not 2 with one line")
    for fault in faults:
        print(fault)
    print(f"{len(plants)} planted mistakes, {len(faults)} faults")
    return 1 if faults else 0


sys.exit(main())
