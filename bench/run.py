#!/usr/bin/env python3
"""Measures exclave beside other allocators, in one run: rounds in which each takes its turn.

  run.py BUILD_DIR                      all workloads, some minutes; writes BUILD_DIR/results.json and report.html
  run.py BUILD_DIR --quick              a rough look in less than a minute
  run.py BUILD_DIR --only a,c3          some workloads (docs/performance.md says what they are)
  run.py BUILD_DIR --peer NAME=PATH.so  one more malloc to measure against
  run.py BUILD_DIR --given-peer NAME=PATH.so
                                        one more that serves from a given range: a library that has
                                        int given_open(void*, size_t), void* given_allocate(size_t
                                        size, size_t alignment) and void given_free(void*)

Each turn is a fresh process of BUILD_DIR/exclave_bench, the peers preloaded. A figure is the median
over the rounds; its spread is the distance between the quartiles divided by the median. A ratio is
taken within each round, where both took their turns shortly after each other, then the median.
"""
import argparse
import json
import pathlib
import random
import sys

import driver
import plan
import report_html
import results
import samples
import tables


def undisturbed(program, result, min_time):
    """The same, once more if it was interrupted for so long that the library took too few calls for enough."""
    for _ in range(3):
        if result["iterations"] >= 64:
            break
        result = program.run(f"^{result['name']}$", min_time)[0]
    return result


def take_turns(program, workload, everyone, options, gathered, order, tell):
    """One round of one workload."""
    def turns(name):
        """Each contender's result, in random order."""
        mine = [c for c in everyone if c.takes(workload)]
        order.shuffle(mine)
        for c in mine:
            tell(f"{name} {c.name}")
            try:
                yield c.name, program.one(name, options.min_time, c)
            except driver.Failure as failure:
                if not (c.preloaded or c.peer):
                    raise
                # A peer that cannot do this workload does not keep us from the others.
                print(f"bench: {c.name} is out of {workload}: {failure}")
                c.out_of.add(workload)

    if workload in plan.PAIRS or workload in plan.GIVEN:
        for name, result in turns(workload):
            gathered.add_pairs(workload, name, result)
    elif workload == "h":
        for name, result in turns("h"):
            gathered.tails.setdefault(name, []).append(result)
    elif workload == "l":
        tell("l books")
        for size in plan.BOOK_BLOCKS:
            gathered.books[size] = program.run(f"^books/{size}/", options.min_time)[0]
        for sequence in plan.SEQUENCES[:2] if options.quick else plan.SEQUENCES:
            for name, result in turns(f"peak-{sequence}"):
                gathered.peaks[sequence, name] = result
    elif workload == "i":
        tell("i")
        for result in program.run("^i/", options.min_time):
            gathered.regions.setdefault(int(result["regions"]), []).append(result)
    elif workload == "k":
        tell("k")
        gathered.calls += program.run("^k/", options.min_time)
    elif workload == "m":
        tell("m")
        for result in program.run("^m/", options.min_time):
            gathered.areas.setdefault(int(result["areas"]), []).append(result)
    elif workload == "query":
        tell("query")
        for result in program.run("^query/", options.min_time):
            gathered.add_query(result)
    elif workload == "copy":
        tell("copy")
        # Quick: words and one odd alignment on either side.
        pattern = "^copy/.*/[01]/[03]$" if options.quick else "^copy/"
        for result in program.run(pattern, options.min_time / 100):
            gathered.add_copy(undisturbed(program, result, options.min_time / 100))


def measure(program, everyone, options, progress):
    gathered = samples.Samples()
    order = random.Random(1)
    took = {}  # workload -> seconds of its last round
    for number in range(options.rounds):
        due = [w for w in options.only if number < plan.rounds_at_most(w, options.quick)]
        if not due:
            break
        if number != 0 and progress.elapsed() + sum(took[w] for w in due) > options.budget:
            progress.tell(f"{number} of {options.rounds} rounds, then the time was up", step=False)
            break
        for workload in due:
            begin = progress.elapsed()
            take_turns(program, workload, everyone, options, gathered, order,
                       lambda text: progress.tell(f"round {number + 1} of {options.rounds}: {text}"))
            took[workload] = progress.elapsed() - begin
        progress.tell(f"round {number + 1} of {options.rounds} done", step=False)
    return gathered


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", metavar="WORKLOADS", help=" ".join(plan.ALL))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH.so")
    parser.add_argument("--given-peer", action="append", default=[], metavar="NAME=PATH.so")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--min-time", type=float, metavar="SECONDS", help="of CPU time, for each turn")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="no new round would end later")
    options = parser.parse_args()
    given = options.only.split(",") if options.only else plan.QUICK if options.quick else plan.ALL
    unknown = set(given) - set(plan.ALL)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))} (there are: {' '.join(plan.ALL)})")
    options.only = [w for w in plan.ALL if w in given]
    options.rounds = options.rounds or (2 if options.quick else 9)
    options.min_time = options.min_time or (0.03 if options.quick else 0.1)
    options.budget = options.budget or (40 if options.quick else 600)
    if "c6" in options.only and driver.available_bytes() < plan.C6_NEEDS_BYTES:
        print("bench: c6 needs 12 GiB of free memory; skipped")
        options.only.remove("c6")
    return options


def main():
    options = parse()
    program = driver.Program(options.build_dir / "exclave_bench")
    if not program.path.is_file():
        sys.exit(f"bench: {program.path} is not built")
    everyone, versions = driver.contenders(options.build_dir, options.peer, options.given_peer, options.quick)
    machine = driver.describe_machine(options.build_dir, versions)
    usage, progress = driver.Usage(), driver.Progress()
    try:
        gathered = measure(program, everyone, options, progress)
    except driver.Failure as failure:
        sys.exit(f"bench: {failure}")
    others, stolen = usage.of_others()
    machine |= {"contenders": [c.name for c in everyone], "quick": options.quick,
                "rounds": max(map(len, gathered.pairs.values()), default=0),
                "min_time_s": options.min_time, "seconds": round(progress.elapsed(), 1),
                "used_by_others": round(others, 3), "stolen": round(stolen, 3)}
    document = {"machine": machine, "runs": samples.runs(gathered, everyone)}
    tables.print_all(results.Results(document))
    driver.write(options.build_dir / "results.json", json.dumps(document, indent=1) + "\n")
    driver.write(options.build_dir / "report.html", report_html.page(document))


if __name__ == "__main__":
    main()
