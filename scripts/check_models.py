#!/usr/bin/env python3
"""Checks the models of the protocols between threads (models/*.pml) with spin, each by exhaustive search.

A model is checked as it stands, and once for each name that it asks for by #ifdef:
  PLANT_x  one step of the protocol taken out: the search must find an error
  KNOWN_x  a claim that the code is known not to meet: the search must find an error, until the code is mended
Where no error may be found, every statement of the model must be reached as well. docs/models.md says what each
model is about.

The head of each model names the code that it models: "Code: f, g (src/a/b.cpp); h (src/c.hpp).". Each name must be
a function of that file, and the model must name each of them again where its steps are.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "models"
# Search depth, bytes of a state, MiB of memory, seconds: all far above what any model needs.
DEPTH = 100_000
VECTOR = 2048
MEMORY_MIB = 3000
LIMIT_S = 600


class Failure(Exception):
    """What is told in one line."""


def command(args, folder, limit_s=LIMIT_S):
    try:
        done = subprocess.run(args, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False)
    except FileNotFoundError as error:
        raise Failure(f"{args[0]} is not installed; run scripts/setup.sh models") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{args[0]} took more than {limit_s} s") from error
    return done


def code_of(model):
    """[(function, file)] of the paragraph "Code:" in the head of the model."""
    head = model.read_text().partition("*/")[0]
    paragraph = re.search(r"^ \* Code: (.*?)\n \*\n", head, re.MULTILINE | re.DOTALL)
    if paragraph is None:
        raise Failure(f"{model.name} names no code")
    text = re.sub(r"\s*\n \* ", " ", paragraph.group(1))
    groups = re.fullmatch(r"(?:[^();]+ \([^()]+\)(?:; |\.$))+", text)
    if groups is None:
        raise Failure(f"{model.name}: 'Code:' must read 'f, g (file); h (file).'")
    return [(name.strip(), file) for names, file in re.findall(r"([^();]+) \(([^()]+)\)(?:; |\.$)", text)
            for name in names.split(",")]


def rotten(model):
    """What the head of the model names that is not in the code, or not at any step of the model."""
    found = []
    body = model.read_text().partition("*/")[2]
    for name, file in code_of(model):
        function = name.rpartition("::")[2]
        path = ROOT / file
        code = re.sub(r"//.*", "", path.read_text()) if path.is_file() else ""
        # In a source its definition, qualified or not; in a header at least a line that declares or defines it.
        defined = rf"(?m)^(?!\s*(?:return|if|for|while|switch)\b)[\w\s\[\]:<>,&*()\"-]*[\s&*:]{re.escape(function)}\([^;]*?\)[^;]*?\{{"
        if not path.is_file():
            found.append(f"{file} is not there")
        elif re.search(defined, code) is None:
            found.append(f"{file} has no function {function}")
        elif re.search(rf"(?<!\w){re.escape(function)}\b", body) is None:
            found.append(f"no step of it names {function}")
    return found


def variants_of(model):
    """'' and every name that the model asks for."""
    names = re.findall(r"^#\s*if(?:n?def)?\s.*$", model.read_text(), re.MULTILINE)
    found = sorted(set(re.findall(r"\b(?:PLANT|KNOWN)_\w+", "\n".join(names))))
    return ["", *found]


def may_fail(variant):
    return variant.startswith(("PLANT_", "KNOWN_"))


def search(model, variant):
    """(errors, states, seconds of the search, unreached lines, folder)"""
    folder = BUILD / (model.stem + ("-" + variant if variant else ""))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    (folder / model.name).write_text(model.read_text())
    define = ["-D" + variant] if variant else []
    made = command(["spin", *define, "-a", model.name], folder)
    if made.returncode != 0 or not (folder / "pan.c").exists():
        raise Failure((made.stdout + made.stderr).strip().split("\n")[0])
    # A search that finds an error is short, so what counts there is how long the compiler takes.
    optimise = "-O0" if may_fail(variant) else "-O2"
    built = command(
        ["gcc", optimise, "-w", "-DSAFETY", "-DCOLLAPSE", f"-DVECTORSZ={VECTOR}", f"-DMEMLIM={MEMORY_MIB}", "-o", "pan",
         "pan.c"], folder)
    if built.returncode != 0:
        raise Failure("gcc: " + built.stderr.strip().split("\n")[0])
    start = time.monotonic()
    ran = command(["./pan", f"-m{DEPTH}"], folder)
    seconds = time.monotonic() - start
    (folder / "pan.out").write_text(ran.stdout + ran.stderr)
    errors = re.search(r"errors: (\d+)", ran.stdout)
    states = re.search(r"^\s*([\d.e+]+) states, stored", ran.stdout, re.MULTILINE)
    if errors is None or states is None:
        raise Failure(f"pan gave no result; see {folder.relative_to(ROOT)}/pan.out")
    for bad in ("max search depth too small", "Search not completed", "out of memory", "memory limit"):
        if bad in ran.stdout + ran.stderr and errors.group(1) == "0":
            raise Failure(f"not exhaustive: {bad}")
    missed = unreached_lines(ran.stdout, command(["./pan", "-d"], folder).stdout)
    return int(errors.group(1)), int(float(states.group(1))), seconds, missed, folder


def unreached_lines(report, table):
    """Lines of which no copy was reached: an inline is copied to wherever it is used."""
    copies = {}
    process = ""
    for line in table.splitlines():
        if start := re.match(r"(?:proctype|init|claim) ?(\w*)", line):
            process = start.group(1) or "init"
        elif found := re.search(r"state\s+(\d+) -\(.*\S\.pml:(\d+) => (?!-end-)", line):
            copies.setdefault(int(found.group(2)), set()).add((process, found.group(1)))
    missed = set()
    for line in report.splitlines():
        if start := re.match(r"unreached in (?:proctype )?(\w+)", line):
            process = start.group(1)
        elif found := re.match(r"\t\S+:\d+, state (\d+), ", line):
            missed.add((process, found.group(1)))
    return sorted(line for line, states in copies.items() if states <= missed)


def check(model, variant):
    """(as it must be, one line)"""
    name = model.stem + (" " + variant if variant else "")
    try:
        errors, states, seconds, unreached, folder = search(model, variant)
    except Failure as failure:
        return False, f"FAIL  {name}: {failure}"
    said = (folder / "pan.out").read_text()
    reason = re.search(r"pan:\d+: (.*) \(at depth", said)
    told = f"{states} states, {seconds:.1f} s"
    if may_fail(variant):
        ok = errors != 0
        what = f"found: {reason.group(1) if reason else 'an error'}" if ok else "NO ERROR FOUND"
    else:
        ok = errors == 0 and not unreached
        what = "holds" if ok else (f"ERROR: {reason.group(1) if reason else '?'}" if errors else
                                   f"never reached: line {', '.join(map(str, unreached))}")
    return ok, f"{'ok  ' if ok else 'FAIL'}  {name}: {what}; {told}"


def trace(model, variant):
    """The steps to the error that the last search found."""
    _, _, _, _, folder = search(model, variant)
    if not (folder / (model.name + ".trail")).exists():
        raise Failure("no error was found, so there is no trace")
    define = ["-D" + variant] if variant else []
    print(command(["spin", *define, "-t", "-p", "-g", "-l", model.name], folder).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names, without .pml; all if none is given")
    parser.add_argument("--trace", metavar="VARIANT", nargs="?", const="",
                        help="print the steps to the error of one model, as it stands or with a name such as PLANT_x")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="searches at a time")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error("--jobs must be at least 1")
    known = {path.stem: path for path in sorted((ROOT / "models").glob("*.pml"))}
    for name in args.models:
        if name not in known:
            parser.error(f"no model named '{name}' (have: {' '.join(known)})")
    chosen = [known[name] for name in args.models] or list(known.values())
    if not chosen:
        raise Failure("there are no models")
    if args.trace is not None:
        if len(args.models) != 1:
            parser.error("--trace wants one model")
        if args.trace not in variants_of(chosen[0]):
            parser.error(f"{chosen[0].stem} does not ask for '{args.trace}'")
        trace(chosen[0], args.trace)
        return 0
    start = time.monotonic()
    rot = [f"FAIL  {model.stem}: {what}" for model in chosen for what in rotten(model)]
    for line in rot:
        print(line)
    searches = [(model, variant) for model in chosen for variant in variants_of(model)]
    results = []
    # A thread only waits for its child.
    with concurrent.futures.ThreadPoolExecutor(max_workers=args.jobs) as workers:
        for ok, line in workers.map(lambda search_args: check(*search_args), searches):
            print(line, flush=True)
            results.append(ok)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"{results.count(True)} of {len(results)} searches as they must be; "
          f"{time.monotonic() - start:.0f} s, at most {peak} MiB each")
    return 0 if all(results) and not rot else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"check_models: {failure}", file=sys.stderr)
        sys.exit(1)
