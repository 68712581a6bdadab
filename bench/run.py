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
  run.py BUILD_DIR --pages small        small pages alone (huge: huge ones alone); --quick does so, too

Each turn is a fresh process of BUILD_DIR/exclave_bench, the peers preloaded. A figure is the median
over the rounds; its spread is the distance between the quartiles divided by the median. A ratio is
taken within each round, where both took their turns shortly after each other, then the median.

Each contender takes its turns twice: with small pages (transparent huge pages are switched off for
its process, whatever it asks for) and with huge pages (the kernel may give them to all its memory,
whether it asks or not). A ratio is between turns with the same pages. What compares no allocators
(i, k, m, query, copy, the books of l) is measured once, with small pages unless they are left out.
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


def undisturbed(program, result, min_time, pages):
    """The same, once more if it was interrupted for so long that the library took too few calls for enough."""
    for _ in range(3):
        if result["iterations"] >= 64:
            break
        result = program.run(f"^{result['name']}$", min_time, pages=pages)[0]
    return result


def take_turns(program, workload, everyone, options, gathered, order, tell):
    """One round of one workload."""
    def turns(name):
        """Each contender's result, in random order; with small pages, then with huge ones."""
        for pages in options.pages:
            mine = [c for c in everyone if c.takes(workload, pages)]
            order.shuffle(mine)
            for c in mine:
                tell(f"{name} {c.name}, {plan.PAGES[pages]}")
                try:
                    yield c.name, pages, program.one(name, options.min_time, c, pages)
                except driver.Failure as failure:
                    if not (c.preloaded or c.peer):
                        raise
                    # A peer that cannot do this workload does not keep us from the others.
                    print(f"bench: {c.name} is out of {workload} with {plan.PAGES[pages]}: {failure}")
                    c.out_of.add((workload, pages))

    def alone(pattern, min_time=options.min_time):
        return program.run(pattern, min_time, pages=options.pages[0])

    if workload in plan.PAIRS or workload in plan.GIVEN:
        for name, pages, result in turns(workload):
            gathered.add_pairs(workload, name, pages, result)
    elif workload == "h":
        for name, pages, result in turns("h"):
            gathered.tails.setdefault((name, pages), []).append(result)
    elif workload == "l":
        tell("l books")
        for size in plan.BOOK_BLOCKS:
            gathered.books[size] = alone(f"^books/{size}/")[0]
        for sequence in plan.SEQUENCES[:2] if options.quick else plan.SEQUENCES:
            for name, pages, result in turns(f"peak-{sequence}"):
                gathered.peaks[sequence, name, pages] = result
    elif workload == "i":
        tell("i")
        for result in alone("^i/"):
            gathered.regions.setdefault(int(result["regions"]), []).append(result)
    elif workload == "k":
        tell("k")
        gathered.calls += alone("^k/")
    elif workload == "m":
        tell("m")
        for result in alone("^m/"):
            gathered.areas.setdefault(int(result["areas"]), []).append(result)
    elif workload == "query":
        tell("query")
        for result in alone("^query/"):
            gathered.add_query(result)
    elif workload == "copy":
        tell("copy")
        # Quick: words and one odd alignment on either side.
        pattern = "^copy/.*/[01]/[03]$" if options.quick else "^copy/"
        for result in alone(pattern, options.min_time / 100):
            gathered.add_copy(undisturbed(program, result, options.min_time / 100, options.pages[0]))


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


class Parser(argparse.ArgumentParser):
    """Tells an error in one line."""

    def error(self, message):
        self.exit(2, f"bench: {message}\n")


def above_zero(kind):
    def number(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number above 0")
        return value
    return number


def chosen_pages(parser, options):
    """The pages to measure with, and why not with the others."""
    wanted = options.pages.split(",") if options.pages else ["small"] if options.quick else list(plan.PAGES)
    unknown = set(wanted) - set(plan.PAGES)
    if unknown:
        parser.error(f"no such pages: {', '.join(sorted(unknown))} (there are: {' '.join(plan.PAGES)})")
    reason = driver.no_huge_pages()
    if options.pages and "huge" in wanted and reason:
        parser.error(f"--pages {options.pages}: huge pages are not available: {reason}")
    missing = {p: "not asked for" if options.pages else "not in a quick look" for p in plan.PAGES if p not in wanted}
    if reason:
        missing["huge"] = f"not available, {reason}"
    return [p for p in plan.PAGES if p not in missing], missing


def parse():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", metavar="WORKLOADS", help=" ".join(plan.ALL))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH.so")
    parser.add_argument("--given-peer", action="append", default=[], metavar="NAME=PATH.so")
    parser.add_argument("--pages", metavar="PAGES", help=" ".join(plan.PAGES))
    parser.add_argument("--rounds", type=above_zero(int))
    parser.add_argument("--min-time", type=above_zero(float), metavar="SECONDS", help="of CPU time, for each turn")
    parser.add_argument("--budget", type=above_zero(float), metavar="SECONDS", help="no new round would end later")
    options = parser.parse_args()
    given = options.only.split(",") if options.only else plan.QUICK if options.quick else plan.ALL
    unknown = set(given) - set(plan.ALL)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))} (there are: {' '.join(plan.ALL)})")
    options.only = [w for w in plan.ALL if w in given]
    options.pages, options.pages_missing = chosen_pages(parser, options)
    options.rounds = options.rounds or (2 if options.quick else 9)
    options.min_time = options.min_time or (0.03 if options.quick else 0.1)
    options.budget = options.budget or (40 if options.quick else 1080)
    if "c6" in options.only and driver.available_bytes() < plan.C6_NEEDS_BYTES:
        print("bench: c6 needs 12 GiB of free memory; skipped")
        options.only.remove("c6")
    return options


def main():
    options = parse()
    program = driver.Program(options.build_dir / "exclave_bench")
    if not program.path.is_file():
        sys.exit(f"bench: {program.path} is not built")
    if "huge" in options.pages and not program.advisor.is_file():
        sys.exit(f"bench: {program.advisor} is not built")
    if "huge" in options.pages and any(sign in str(program.advisor) for sign in " :"):
        sys.exit(f"bench: {program.advisor}: the loader preloads nothing whose path has a blank or a colon; try --pages small")
    everyone, versions = driver.contenders(options.build_dir, options.peer, options.given_peer, options.quick)
    machine = driver.describe_machine(options.build_dir, versions)
    usage, progress = driver.Usage(), driver.Progress()
    try:
        gathered = measure(program, everyone, options, progress)
    except driver.Failure as failure:
        sys.exit(f"bench: {failure}")
    others, stolen = usage.of_others()
    machine |= {"contenders": [c.name for c in everyone], "quick": options.quick,
                "pages": options.pages, "pages_missing": options.pages_missing,
                "rounds": max(map(len, gathered.pairs.values()), default=0),
                "min_time_s": options.min_time, "seconds": round(progress.elapsed(), 1),
                "used_by_others": round(others, 3), "stolen": round(stolen, 3)}
    document = {"machine": machine, "runs": samples.runs(gathered, everyone, options.pages)}
    tables.print_all(results.sections(document))
    driver.write(options.build_dir / "results.json", json.dumps(document, indent=1) + "\n")
    driver.write(options.build_dir / "report.html", report_html.page(document))


if __name__ == "__main__":
    main()
