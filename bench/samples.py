"""What each turn gave, round by round, and the runs of results.json that come of it."""
import statistics

import plan


def figure(samples):
    """Median and spread. The spread of one sample is unknown: None."""
    median = statistics.median(samples)
    if len(samples) < 2:
        return median, None
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return median, (high - low) / median if median else 0.0


class Samples:
    def __init__(self):
        self.pairs = {}    # (workload, contender, pages) -> list of one dict for each round
        self.queries = {}  # (where, regions) -> ns
        self.copies = {}   # (how, bytes, untrusted_align, trusted_align) -> ns
        # Counters of the benchmark program, one dict for each round:
        self.tails = {}    # (contender, pages)
        self.regions = {}  # number of regions
        self.calls = []    # memory calls
        self.areas = {}    # number of areas
        self.books = {}    # bytes of a block
        self.peaks = {}    # (sequence, contender, pages)

    def add_pairs(self, workload, name, pages, result):
        each = result["pairs_per_iteration"]
        # Times are for one iteration of one thread; host_calls is for all of them together.
        sample = {
            "cpu": result["cpu_time"] / each,
            "wall": result["real_time"] / each,
            "host_calls": result["host_calls"] / (each * result["iterations"]),
            "threads": result.get("threads", 1),
            "huge_bytes": result["huge_bytes"],
        }
        sample.update((half, result[half]) for half in ("get_ns", "put_ns") if half in result)
        self.pairs.setdefault((workload, name, pages), []).append(sample)

    def add_query(self, result):
        _, where, regions = result["name"].split("/")
        self.queries.setdefault((where, int(regions)), []).append(result["cpu_time"])

    def add_copy(self, result):
        _, how, size, untrusted, trusted = result["name"].split("/")
        key = (how, int(size), int(untrusted), int(trusted))
        self.copies.setdefault(key, []).append(result["cpu_time"])

    def ratios(self, workload, name, pages):
        """Our time divided by the other's with the same pages, in each round."""
        ours, theirs = (self.pairs.get((workload, who, pages)) for who in (plan.ours(workload), name))
        if not ours or not theirs:
            return None
        return [a["cpu"] / b["cpu"] for a, b in zip(ours, theirs)]

    def memcpy_ratio(self, key):
        beside = self.copies[("memcpy-in" if key[0] == "in" else "memcpy-out",) + key[1:]]
        return statistics.median(a / b for a, b in zip(self.copies[key], beside))


def median_of(rounds, name):
    return statistics.median(r[name] for r in rounds)


def pair_runs(samples, everyone):
    names = [c.name for c in everyone]
    peers = [c.name for c in everyone if c.peer]
    def place(item):
        workload, name, pages = item[0]
        return list(plan.PAGES).index(pages), plan.ALL.index(workload), names.index(name)
    for (workload, name, pages), rounds in sorted(samples.pairs.items(), key=place):
        median, spread = figure([r["cpu"] for r in rounds])
        run = {
            "workload": workload, "allocator": name, "pages": pages, "ns_per_pair": median, "spread": spread,
            "wall_ns_per_pair": median_of(rounds, "wall"), "host_calls_per_pair": median_of(rounds, "host_calls"),
            "threads": rounds[0]["threads"], "samples": [r["cpu"] for r in rounds], "peer": name in peers,
            "huge_bytes": int(max(r["huge_bytes"] for r in rounds)),
        }
        for half in ("get_ns", "put_ns"):
            if half in rounds[0]:
                run[half] = median_of(rounds, half)
        ratios = samples.ratios(workload, name, pages)
        if ratios and name not in (plan.ours(workload), "null"):
            run["exclave_ratio"], run["exclave_ratio_spread"] = figure(ratios)
        yield run


def tail_runs(samples, everyone):
    for name, pages in ((c.name, p) for p in plan.PAGES for c in everyone if (c.name, p) in samples.tails):
        rounds = samples.tails[name, pages]
        for call in ("allocate", "deallocate"):
            run = {"workload": "h", "allocator": name, "pages": pages, "call": call}
            run.update((f"{q}_ns", median_of(rounds, f"{call}_{q}")) for q in ("p50", "p99", "p999", "max"))
            yield run | {"calls": int(rounds[0]["calls"]), "host_calls": max(int(r["host_calls"]) for r in rounds)}


def region_runs(samples):
    for (where, regions), nanoseconds in sorted(samples.queries.items()):
        median, spread = figure(nanoseconds)
        yield {"workload": "query", "allocator": "exclave", "where": where, "regions": regions,
               "ns_per_call": median, "spread": spread}
    for regions, rounds in sorted(samples.regions.items()):
        for call in ("attach", "detach"):
            median, spread = figure([r[f"{call}_ns"] for r in rounds])
            yield {"workload": "i", "allocator": "exclave", "call": call, "regions": regions, "ns_per_call": median,
                   "spread": spread, "p99_ns": median_of(rounds, f"{call}_p99_ns"),
                   "trusted_bytes_per_region": rounds[0]["trusted_used_bytes"] / regions}


def memory_call_runs(samples):
    for call in ("mmap", "mprotect", "munmap") if samples.calls else ():
        for who in ("bare", "exclave"):
            median, spread = figure([r[f"{who}_{call}_ns"] for r in samples.calls])
            run = {"workload": "k", "allocator": who, "call": call, "ns_per_call": median, "spread": spread}
            if who == "exclave":
                run["over_bare_ns"] = statistics.median(r[f"exclave_{call}_ns"] - r[f"bare_{call}_ns"] for r in samples.calls)
            yield run


def area_runs(samples):
    for areas, rounds in sorted(samples.areas.items()):
        for call in plan.AREA_CALLS:
            median, spread = figure([r[f"{call}_ns"] for r in rounds])
            yield {"workload": "m", "allocator": "exclave", "call": call, "areas": areas, "ns_per_call": median, "spread": spread,
                   "trusted_bytes_per_area": max(r["trusted_bytes"] for r in rounds) / areas}


def book_runs(samples):
    for size, books in sorted(samples.books.items()):
        yield {"workload": "l", "allocator": "exclave", "what": "books", "block_bytes": size,
               **{n: int(books[n]) for n in ("live_bytes", "reserved_bytes", "trusted_bytes", "trusted_used_bytes")},
               "trusted_per_live": books["trusted_bytes"] / books["live_bytes"],
               "trusted_bytes_per_gib": books["trusted_bytes"] / books["reserved_bytes"] * 2**30}


def peak_runs(samples, everyone):
    found = ((s, c.name, p) for p in plan.PAGES for c in everyone for s in plan.SEQUENCES)
    for sequence, name, pages in filter(samples.peaks.__contains__, found):
        peak = samples.peaks[sequence, name, pages]
        run = {"workload": "l", "allocator": name, "pages": pages, "what": "peak", "sequence": sequence,
               **{n: int(peak[n]) for n in ("peak_live_bytes", "peak_resident_bytes", "peak_reserved_bytes")},
               "resident_per_live": peak["peak_resident_bytes"] / peak["peak_live_bytes"]}
        if run["peak_reserved_bytes"]:
            run["reserved_per_live"] = run["peak_reserved_bytes"] / run["peak_live_bytes"]
        else:
            del run["peak_reserved_bytes"]  # not told by mallocs
        yield run


def copy_runs(samples):
    for key, nanoseconds in sorted(samples.copies.items()):
        how, size, untrusted, trusted = key
        median, spread = figure(nanoseconds)
        run = {"workload": "copy", "allocator": "libc" if how.startswith("memcpy") else "exclave", "how": how,
               "bytes": size, "untrusted_align": untrusted, "trusted_align": trusted, "ns_per_call": median,
               "spread": spread}
        if not how.startswith("memcpy"):
            run["memcpy_ratio"] = samples.memcpy_ratio(key)
        yield run


def runs(samples, everyone, pages):
    """The runs of results.json. What compares no allocators was measured with the first of the pages."""
    once = [*region_runs(samples), *memory_call_runs(samples), *area_runs(samples), *book_runs(samples), *copy_runs(samples)]
    return [*pair_runs(samples, everyone), *tail_runs(samples, everyone), *peak_runs(samples, everyone),
            *({**run, "pages": pages[0]} for run in once)]
