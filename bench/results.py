"""results.json, asked: what the terminal's tables and the page show alike."""
import math
import statistics

import plan

COPIES = [  # how, in words, for which alignments of the untrusted side
    ("out", "copy_out, destination aligned", lambda untrusted: untrusted == 0),
    ("out-padded", "copy_out_padded", lambda untrusted: True),
    ("out", "copy_out, destination not", lambda untrusted: untrusted != 0),
    ("in", "copy_in, source aligned", lambda untrusted: untrusted == 0),
    ("in", "copy_in, source not", lambda untrusted: untrusted != 0),
]
QUANTILES = [("p50_ns", "p50"), ("p99_ns", "p99"), ("p999_ns", "p99.9"), ("max_ns", "max")]
CARE = 0.05  # of the processors used by others: measure again


def sections(document):
    """One for each kind of pages that was measured. The first has what was measured once, too."""
    return [Results(document, pages) for pages in document["machine"]["pages"]]


class Results:
    """What was measured with one kind of pages: no figure meets one that was measured with another."""

    def __init__(self, document, pages):
        self.machine, self.pages, self.words = document["machine"], pages, plan.PAGES[pages]
        self.runs = [r for r in document["runs"] if r["pages"] == pages]

    def of(self, workload, **wanted):
        return [r for r in self.runs if r["workload"] == workload and all(r.get(k) == v for k, v in wanted.items())]

    # group: one of plan.GROUPS, workloads with one figure for each allocator.

    def workloads(self, group=plan.PAIRS):
        there = {r["workload"] for r in self.runs}
        return [w for w in group if w in there]

    def allocators(self, group=plan.PAIRS):
        there = {r["allocator"] for r in self.runs if r["workload"] in group}
        return [name for name in self.machine["contenders"] if name in there]

    def peers(self, group=plan.PAIRS):
        there = {r["allocator"] for r in self.runs if r["workload"] in group and r.get("peer")}
        return [name for name in self.machine["contenders"] if name in there]

    def pair(self, workload, allocator):
        return next(iter(self.of(workload, allocator=allocator)), None)

    def ratios(self, peer, group=plan.PAIRS):
        """Exclave's time divided by the peer's, by workload."""
        found = {w: self.pair(w, peer) for w in self.workloads(group)}
        return {w: r for w, r in found.items() if r and "exclave_ratio" in r}

    def mean_ratio(self, peer, group=plan.PAIRS):
        """Geometric; None without any."""
        logs = [math.log(r["exclave_ratio"]) for r in self.ratios(peer, group).values()]
        return math.exp(statistics.mean(logs)) if logs else None

    def worst_ratio(self, workload):
        """To the fastest peer: (ratio, peer), or None."""
        runs = [r for r in self.of(workload) if r.get("peer") and "exclave_ratio" in r]
        return max(((r["exclave_ratio"], r["allocator"]) for r in runs), default=None)

    def behind(self, group=plan.PAIRS):
        """Where a peer is faster: (workload, ratio, peer)."""
        worst = [(w, self.worst_ratio(w)) for w in self.workloads(group)]
        return [(w, *found) for w, found in worst if found and found[0] > 1]

    def verdict(self, group=plan.PAIRS):
        """One line, or None where there is nothing to compare."""
        compared = [w for w in self.workloads(group) if self.worst_ratio(w)]
        if not compared:
            return None
        behind = self.behind(group)
        what = "workloads on given memory" if group is plan.GIVEN else "workloads"
        if not behind:
            return f"with {self.words}, exclave is ahead of every peer in all {len(compared)} {what}"
        return (f"with {self.words}, exclave is ahead of every peer in {len(compared) - len(behind)} of {len(compared)} {what}; behind in "
                + ", ".join(f"{w} ({ratio:.2f} of {peer})" for w, ratio, peer in behind))

    def without_huge_pages(self):
        """The contenders that had few or none, though all may have them: in no workload a tenth of what another one had."""
        runs = [r for r in self.runs if "huge_bytes" in r and r["allocator"] != "null"]
        most = {}
        for r in runs:
            most[r["workload"]] = max(most.get(r["workload"], 1), r["huge_bytes"])
        enough = {r["allocator"] for r in runs if r["huge_bytes"] >= most[r["workload"]] / 10}
        return [name for name in self.machine["contenders"] if name in {r["allocator"] for r in runs} - enough]

    def notes(self):
        """What to know about the pages, a sentence each."""
        told = [f"no figures with {plan.PAGES[pages]}: {reason}" for pages, reason in self.machine["pages_missing"].items()]
        none = self.without_huge_pages() if self.pages == "huge" else []
        if none:
            told.append(f"with huge pages, the kernel gave few or none to {', '.join(none)}: read these figures as with small pages")
        return told

    def warning(self):
        """What to doubt, or None."""
        others = self.machine["used_by_others"]
        if others <= CARE:
            return None
        return f"others used {100 * others:.0f} % of the processors meanwhile: take these figures with care"

    def by_areas(self):
        """m: the numbers of areas; for each call its name, its words and a run for each number; the books' bytes for an area."""
        counts = sorted({r["areas"] for r in self.of("m")})
        rows = [(call, words, [self.of("m", call=call, areas=n)[0] for n in counts]) for call, words in plan.AREA_CALLS.items()]
        return counts, rows, [run["trusted_bytes_per_area"] for run in rows[0][2]]

    def memcpy_ratios(self):
        """(bytes, memcpy's ns, for each of COPIES its ratios over the alignments)."""
        rows = []
        for size in sorted({r["bytes"] for r in self.of("copy")}):
            base = [r["ns_per_call"] for r in self.of("copy", how="memcpy-out", bytes=size)]
            ratios = [[r["memcpy_ratio"] for r in self.of("copy", how=how, bytes=size) if wanted(r["untrusted_align"])]
                      for how, _, wanted in COPIES]
            rows.append((size, statistics.median(base), ratios))
        return rows


def nanoseconds(value):
    """Three figures or so, and the unit where it is not ns."""
    for limit, divisor, unit in ((1e4, 1, ""), (1e6, 1e3, " µs"), (1e9, 1e6, " ms"), (math.inf, 1e9, " s")):
        if value < limit:
            value /= divisor
            return (f"{value:.1f}" if value < 100 else f"{value:,.0f}") + unit
    raise ValueError(value)


def ratio_words(ratio):
    """Three figures."""
    return f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}"


def size_words(size):
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.0f} {unit}" if size % factor == 0 else f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"
