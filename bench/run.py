#!/usr/bin/env python3
"""Measures exclave beside other allocators, in one run: rounds in which each takes its turn.

  run.py BUILD_DIR                      all workloads, some minutes; writes BUILD_DIR/results.json
  run.py BUILD_DIR --quick              a rough look in less than a minute
  run.py BUILD_DIR --only a,c3          some workloads (a b c3 c4 c5 d e f query copy)
  run.py BUILD_DIR --peer NAME=PATH.so  one more malloc to measure against

Each turn is a fresh process of BUILD_DIR/exclave_bench, the peers preloaded. A figure is the median
over the rounds; its spread is the distance between the quartiles divided by the median. A ratio is
taken within each round, where both took their turns shortly after each other, then the median.
docs/performance.md says what the workloads are.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Debian's packages, by the name that the loader knows.
PEERS = [
    ("mimalloc", "libmimalloc.so.2", "libmimalloc2.0"),
    ("jemalloc", "libjemalloc.so.2", "libjemalloc2"),
    ("tcmalloc", "libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
]
PAIRS = {
    "a": "one block of 64 B, over and over",
    "b": "10,000 blocks of 16-1024 B, freed in random order",
    "c3": "1e3 live blocks of 16 B-64 KiB, one replaced",
    "c4": "1e4 live blocks of 16 B-64 KiB, one replaced",
    "c5": "1e5 live blocks of 16 B-64 KiB, one replaced",
    "d": "64 live blocks of 64 KiB-4 MiB, one replaced",
    "e": "two threads, each doing b",
    "f": "one thread allocates, another frees",
}
DEFAULT = ["a", "b", "c3", "c5", "d", "e", "f", "query", "copy"]
COPY_ROUNDS = 3


class Contender:
    """Someone who takes turns: a policy of the program, and the environment it runs in."""

    def __init__(self, name, policy, env=None, only=None, malloc=None):
        self.name, self.policy, self.env = name, policy, env or {}
        self.only, self.malloc = only, malloc

    def takes(self, workload):
        return self.only is None or workload in self.only


def loader_path(soname):
    """Where the loader finds a library, or None."""
    try:
        cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    except OSError:
        return None
    for line in cache.splitlines():
        if line.split(" ")[0].strip() == soname and " => " in line:
            return line.split(" => ")[1]
    return None


def package_version(package):
    found = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True)
    return found.stdout if found.returncode == 0 else "unknown"


def contenders(extra, quick):
    """Who takes part, and the versions of the peers."""
    everyone = [
        Contender("null", "null"),
        Contender("exclave", "exclave"),
        Contender("exclave-store", "exclave-store", only=["c3", "c4", "c5"]),
    ]
    if not quick:
        everyone.append(Contender("exclave-4k", "exclave", {"EXCLAVE_BENCH_HUGE_PAGES": "0"}, only=["c5"]))
    everyone.append(Contender("glibc", "malloc", malloc="libc.so"))
    versions = {"glibc": " ".join(platform.libc_ver())}
    for name, soname, package in PEERS:
        path = loader_path(soname)
        if path is None:
            print(f"bench: {name} is not installed (Debian: {package}); skipped")
            continue
        everyone.append(Contender(name, "malloc", {"LD_PRELOAD": path}, malloc=soname))
        versions[name] = package_version(package)
    for given in extra:
        name, _, path = given.partition("=")
        if not path or not pathlib.Path(path).is_file():
            sys.exit(f"bench: --peer {given}: want NAME=PATH of a shared library")
        path = str(pathlib.Path(path).resolve())
        everyone.append(Contender(name, "malloc", {"LD_PRELOAD": path}, malloc=pathlib.Path(path).name))
        versions[name] = path
    return everyone, versions


class Program:
    """The benchmark program."""

    def __init__(self, path):
        self.path = path

    def run(self, pattern, min_time, env=None, malloc=None):
        """The results of the benchmarks that match, as Google Benchmark tells them."""
        done = subprocess.run(
            [str(self.path), f"--benchmark_filter={pattern}", f"--benchmark_min_time={min_time}",
             "--benchmark_format=json"],
            capture_output=True, text=True, env={**os.environ, **(env or {})})
        if done.returncode != 0:
            sys.exit(f"bench: {pattern} failed with {done.returncode}:\n{done.stderr}")
        told = json.loads(done.stdout)
        used = told["context"].get("malloc_from", "")
        if malloc is not None and not pathlib.Path(used).name.startswith(malloc):
            sys.exit(f"bench: {pattern} should run on {malloc}, but malloc comes from {used}")
        return told["benchmarks"]


def processor_ticks():
    """All, idle and stolen time of the machine so far."""
    ticks = [int(n) for n in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4], ticks[7]


class Usage:
    """How much of the machine others used while we measured."""

    def __init__(self):
        self.ticks, self.own = processor_ticks(), self.own_seconds()

    @staticmethod
    def own_seconds():
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    def of_others(self):
        total, idle, stolen = (b - a for a, b in zip(self.ticks, processor_ticks()))
        own = (self.own_seconds() - self.own) * os.sysconf("SC_CLK_TCK")
        return max(0.0, (total - idle - own) / max(1, total)), stolen / max(1, total)


def read_first(path, prefix=None):
    try:
        for line in pathlib.Path(path).read_text().splitlines():
            if prefix is None:
                return line.strip()
            if line.startswith(prefix):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def describe_machine(versions):
    git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    os_release = read_first("/etc/os-release")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": read_first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": read_first("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "os": os_release.split("=", 1)[-1].strip('"'),
        "huge_pages": read_first("/sys/kernel/mm/transparent_hugepage/enabled"),
        "exclave": git.stdout.strip() or "unknown",
        "peers": versions,
    }


def figure(samples):
    """Median and spread. The spread of one sample is unknown: None."""
    median = statistics.median(samples)
    if len(samples) < 2:
        return median, None
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return median, (high - low) / median if median else 0.0


class Progress:
    """One changing line on a terminal, else one line for each round."""

    def __init__(self):
        self.start, self.terminal = time.monotonic(), sys.stderr.isatty()

    def elapsed(self):
        return time.monotonic() - self.start

    def tell(self, text, step=True):
        if self.terminal:
            print(f"\r\x1b[K{self.elapsed():4.0f} s  {text}", end="" if step else "\n", file=sys.stderr, flush=True)
        elif not step:
            print(f"bench: {self.elapsed():4.0f} s  {text}", file=sys.stderr, flush=True)


class Samples:
    """What each turn gave, round by round."""

    def __init__(self):
        self.pairs = {}    # (workload, contender) -> list of one dict for each round
        self.queries = {}  # (where, regions) -> ns
        self.copies = {}   # (how, bytes, untrusted_align, trusted_align) -> ns

    def add_pairs(self, workload, name, result):
        each = result["pairs_per_iteration"]
        threads = result.get("threads", 1)
        # Times are for one iteration of one thread; host_calls is for all of them together.
        pairs = each * result["iterations"]
        self.pairs.setdefault((workload, name), []).append({
            "cpu": result["cpu_time"] / each,
            "wall": result["real_time"] / each,
            "host_calls": result["host_calls"] / pairs,
            "threads": threads,
        })

    def add_query(self, result):
        _, where, regions = result["name"].split("/")
        self.queries.setdefault((where, int(regions)), []).append(result["cpu_time"])

    def add_copy(self, result):
        _, how, size, untrusted, trusted = result["name"].split("/")
        key = (how, int(size), int(untrusted), int(trusted))
        self.copies.setdefault(key, []).append(result["cpu_time"])

    def ratios(self, workload, name):
        """Exclave's time divided by the other's, in each round."""
        ours, theirs = self.pairs.get((workload, "exclave")), self.pairs.get((workload, name))
        if not ours or not theirs:
            return None
        return [a["cpu"] / b["cpu"] for a, b in zip(ours, theirs)]

    def memcpy_ratio(self, key):
        beside = self.copies[("memcpy-in" if key[0] == "in" else "memcpy-out",) + key[1:]]
        return statistics.median(a / b for a, b in zip(self.copies[key], beside))


def measure(program, everyone, options, progress):
    samples = Samples()
    order = random.Random(1)
    workloads = [w for w in options.only if w in PAIRS]
    longest = 0.0
    for number in range(options.rounds):
        begin = progress.elapsed()
        if number != 0 and begin + longest > options.budget:
            progress.tell(f"{number} of {options.rounds} rounds, then the time was up", step=False)
            break
        for workload in workloads:
            turns = [c for c in everyone if c.takes(workload)]
            order.shuffle(turns)
            for c in turns:
                progress.tell(f"round {number + 1} of {options.rounds}: {workload} {c.name}")
                found = program.run(f"^{workload}/{c.policy}(/|$)", options.min_time, c.env, c.malloc)
                if len(found) != 1:
                    sys.exit(f"bench: {workload}/{c.policy} names {len(found)} benchmarks")
                samples.add_pairs(workload, c.name, found[0])
        if "query" in options.only:
            progress.tell(f"round {number + 1} of {options.rounds}: query")
            for result in program.run("^query/", options.min_time):
                samples.add_query(result)
        if "copy" in options.only and number < COPY_ROUNDS:
            progress.tell(f"round {number + 1} of {options.rounds}: copy")
            # Quick: words and one odd alignment on either side.
            pattern = "^copy/.*/[01]/[03]$" if options.quick else "^copy/"
            for result in program.run(pattern, options.min_time / 100):
                samples.add_copy(result)
        longest = max(longest, progress.elapsed() - begin)
        progress.tell(f"round {number + 1} of {options.rounds} done", step=False)
    return samples


def results(samples, everyone):
    """The runs of results.json."""
    runs = []
    names = [c.name for c in everyone]
    for (workload, name), rounds in sorted(samples.pairs.items(), key=lambda i: (i[0][0], names.index(i[0][1]))):
        median, spread = figure([r["cpu"] for r in rounds])
        run = {
            "workload": workload, "allocator": name, "ns_per_pair": median, "spread": spread,
            "wall_ns_per_pair": figure([r["wall"] for r in rounds])[0],
            "host_calls_per_pair": figure([r["host_calls"] for r in rounds])[0],
            "threads": rounds[0]["threads"], "samples": [r["cpu"] for r in rounds],
        }
        ratios = samples.ratios(workload, name)
        if ratios and name not in ("exclave", "null"):
            run["exclave_ratio"], run["exclave_ratio_spread"] = figure(ratios)
        runs.append(run)
    for (where, regions), nanoseconds in sorted(samples.queries.items()):
        median, spread = figure(nanoseconds)
        runs.append({"workload": "query", "allocator": "exclave", "where": where, "regions": regions,
                     "ns_per_call": median, "spread": spread})
    for key, nanoseconds in sorted(samples.copies.items()):
        how, size, untrusted, trusted = key
        median, spread = figure(nanoseconds)
        run = {"workload": "copy", "allocator": "libc" if how.startswith("memcpy") else "exclave", "how": how, "bytes": size,
               "untrusted_align": untrusted, "trusted_align": trusted, "ns_per_call": median, "spread": spread}
        if not how.startswith("memcpy"):
            run["memcpy_ratio"] = samples.memcpy_ratio(key)
        runs.append(run)
    return runs


def table(head, rows):
    """Left-aligned first column, the others right-aligned."""
    widths = [max(len(str(row[i])) for row in [head] + rows) for i in range(len(head))]
    for row in [head] + rows:
        print("  " + "  ".join(str(cell).ljust(w) if i == 0 else str(cell).rjust(w)
                               for i, (cell, w) in enumerate(zip(row, widths))).rstrip())


def percent(spread):
    return "" if spread is None else f" ±{100 * spread / 2:.0f}%"


def print_pairs(samples, everyone, workloads):
    names = [c.name for c in everyone if any((w, c.name) in samples.pairs for w in workloads)]
    rows = []
    for workload in workloads:
        row = [workload]
        for name in names:
            rounds = samples.pairs.get((workload, name))
            if not rounds:
                row.append("-")
                continue
            median, spread = figure([r["cpu"] for r in rounds])
            row.append(f"{median:.1f}{percent(spread)}")
        rows.append(row + [PAIRS[workload]])
    print("\nCPU ns for one allocation and one free, the harness (null) in; ± half the distance of the quartiles")
    table(["", *names, ""], rows)

    peers = [c.name for c in everyone if c.policy == "malloc"]
    if "exclave" not in names or not peers:
        return
    rows, logs = [], {name: [] for name in peers}
    for workload in workloads:
        row, medians = [workload], []
        for name in peers:
            median, spread = figure(samples.ratios(workload, name))
            logs[name].append(math.log(median))
            medians.append(median)
            row.append(f"{median:.2f}{percent(spread)}")
        rows.append(row + [f"{max(medians):.2f}"])
    means = [f"{math.exp(statistics.mean(logs[name])):.2f}" for name in peers]
    rows.append(["mean", *means, ""])
    print("\nexclave / peer: below 1, exclave is faster (mean: geometric)")
    table(["", *peers, "fastest"], rows)


def print_queries(samples):
    print("\nquery, CPU ns for one call")
    rows = []
    for (where, regions), nanoseconds in sorted(samples.queries.items()):
        median, spread = figure(nanoseconds)
        rows.append([where, f"{regions:,}", f"{median:.1f}{percent(spread)}"])
    table(["where", "regions", "ns"], rows)


def print_copies(samples):
    """For each size: best and worst ratio over the alignments."""
    print("\ncopies, CPU ns for one call; ratios to memcpy at the same alignments: median (worst) over them")
    groups = [
        ("out", "copy_out, destination aligned", lambda u: u == 0),
        ("out-padded", "copy_out_padded", lambda u: True),
        ("out", "copy_out, destination not", lambda u: u != 0),
        ("in", "copy_in, source aligned", lambda u: u == 0),
        ("in", "copy_in, source not", lambda u: u != 0),
    ]
    sizes = sorted({key[1] for key in samples.copies})
    rows = []
    for size in sizes:
        base = [statistics.median(v) for k, v in samples.copies.items() if k[:2] == ("memcpy-out", size)]
        row = [f"{size:,} B", f"{statistics.median(base):.1f}"]
        for how, _, wanted in groups:
            keys = [k for k in samples.copies if k[:2] == (how, size) and wanted(k[2])]
            ratios = [samples.memcpy_ratio(k) for k in keys]
            row.append(f"{statistics.median(ratios):.2f} ({max(ratios):.2f})" if ratios else "-")
        rows.append(row)
    table(["bytes", "memcpy ns", *[text for _, text, _ in groups]], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(DEFAULT))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH.so")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--min-time", type=float, metavar="SECONDS", help="of CPU time, for each turn")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="no new round would end later")
    options = parser.parse_args()
    options.only = [w for w in options.only.split(",") if w]
    options.rounds = options.rounds or (2 if options.quick else 9)
    options.min_time = options.min_time or (0.04 if options.quick else 0.2)
    options.budget = options.budget or (45 if options.quick else 420)
    unknown = set(options.only) - set(PAIRS) - {"query", "copy"}
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    program = Program(options.build_dir / "exclave_bench")
    if not program.path.is_file():
        sys.exit(f"bench: {program.path} is not built")

    everyone, versions = contenders(options.peer, options.quick)
    machine = describe_machine(versions)
    usage, progress = Usage(), Progress()
    samples = measure(program, everyone, options, progress)
    others, stolen = usage.of_others()
    machine |= {"quick": options.quick, "rounds": max(map(len, samples.pairs.values()), default=0),
                "min_time_s": options.min_time, "seconds": round(progress.elapsed(), 1),
                "used_by_others": round(others, 3), "stolen": round(stolen, 3)}

    workloads = [w for w in options.only if w in PAIRS]
    if workloads:
        print_pairs(samples, everyone, workloads)
    if samples.queries:
        print_queries(samples)
    if samples.copies:
        print_copies(samples)
    print()
    if others > 0.05:
        print(f"bench: others used {100 * others:.0f} % of the processors meanwhile: take these figures with care")

    target = options.build_dir / "results.json"
    part = target.with_suffix(".part")
    part.write_text(json.dumps({"machine": machine, "runs": results(samples, everyone)}, indent=1) + "\n")
    part.replace(target)
    print(f"bench: {target}")


if __name__ == "__main__":
    main()
