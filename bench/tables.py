"""The results on the terminal."""
import statistics

import plan
from results import COPIES, QUANTILES, nanoseconds, ratio_words, size_words


def table(head, rows):
    """Left-aligned first column, the others right-aligned."""
    widths = [max(len(str(row[i])) for row in [head] + rows) for i in range(len(head))]
    for row in [head] + rows:
        print("  " + "  ".join(str(cell).ljust(w) if i == 0 else str(cell).rjust(w)
                               for i, (cell, w) in enumerate(zip(row, widths))).rstrip())


def percent(spread):
    return "" if spread is None else f" ±{100 * spread / 2:.0f}%"


def print_pairs(results, group):
    names, workloads = results.allocators(group), results.workloads(group)
    rows = []
    for workload in workloads:
        found = [results.pair(workload, name) for name in names]
        cells = [f"{r['ns_per_pair']:.1f}{percent(r['spread'])}" if r else "-" for r in found]
        rows.append([workload, *cells, group[workload]])
    print(f"\n{results.words}: CPU ns for one allocation and one free, the harness (null) in; ± half the distance of the quartiles")
    table(["", *names, ""], rows)
    halves = [w for w in workloads if any("get_ns" in r for r in results.of(w))]
    if halves:
        print(f"\n{results.words}: get and put of page runs apart, ns")
        rows = []
        for workload in halves:
            found = [results.pair(workload, name) for name in names]
            rows.append([workload, *(f"{r['get_ns']:.1f} + {r['put_ns']:.1f}" if r else "-" for r in found)])
        keep = [i for i in range(len(names) + 1) if i == 0 or any(row[i] != "-" for row in rows)]
        table([["", *names][i] for i in keep], [[row[i] for i in keep] for row in rows])


def print_ratios(results, group):
    peers = results.peers(group)
    if not results.verdict(group):
        return
    rows = []
    for workload in results.workloads(group):
        worst = results.worst_ratio(workload)
        if not worst:
            continue
        found = [results.ratios(peer, group).get(workload) for peer in peers]
        cells = [f"{r['exclave_ratio']:.2f}{percent(r['exclave_ratio_spread'])}" if r else "-" for r in found]
        rows.append([workload, *cells, f"{worst[0]:.2f}"])
    means = [results.mean_ratio(peer, group) for peer in peers]
    rows.append(["mean", *(f"{m:.2f}" if m else "-" for m in means), ""])
    print(f"\n{results.words}: {plan.ours(rows[0][0])} / peer: below 1, exclave is faster (mean: geometric)")
    table(["", *peers, "fastest"], rows)


def print_tails(results):
    print(f"\n{results.words}: h: single calls in c4, ns of wall time, the clock's reading (null) in")
    rows = [[f"{r['call']}, {r['allocator']}", *(nanoseconds(r[key]) for key, _ in QUANTILES),
             r["host_calls"] if r["allocator"] == "exclave" else ""]
            for call in ("allocate", "deallocate") for r in results.of("h", call=call)]
    table(["", *(text for _, text in QUANTILES), "host calls"], rows)


def print_regions(results):
    print("\nby number of regions, ns for one call")
    rows = [[f"query {r['where']}", f"{r['regions']:,}", f"{r['ns_per_call']:.1f}{percent(r['spread'])}"]
            for r in results.of("query")]
    rows += [[r["call"], f"{r['regions']:,}", f"{r['ns_per_call']:.0f}{percent(r['spread'])}"]
             for call in ("attach", "detach") for r in results.of("i", call=call)]
    table(["", "regions", "ns"], rows)


def print_memory_calls(results):
    print("\nk: memory calls on 64 KiB outside, ns: bare, through MemoryCalls, the difference")
    rows = []
    for ours in results.of("k", allocator="exclave"):
        bare = results.of("k", allocator="bare", call=ours["call"])[0]
        rows.append([ours["call"], *(f"{v:,.0f}" for v in (bare["ns_per_call"], ours["ns_per_call"], ours["over_bare_ns"]))])
    table(["", "bare", "exclave", "more"], rows)


def print_areas(results):
    counts, calls, books = results.by_areas()
    print("\nm: the enclave's own memory by number of areas, page operations that do nothing; ns for one call")
    rows = [[words, *(f"{r['ns_per_call']:,.0f}{percent(r['spread'])}" for r in runs)] for _, words, runs in calls]
    rows.append(["trusted bytes, all books / areas", *(f"{b:,.0f} B" for b in books)])
    table(["", *(f"{n:,} areas" for n in counts)], rows)


def print_books(results):
    print("\nl: trusted memory of exclave, by the size of the blocks")
    rows = [[size_words(r["block_bytes"]), f"{100 * r['trusted_per_live']:.3f} %", size_words(r["trusted_bytes_per_gib"])]
            for r in results.of("l", what="books")]
    table(["", "of live bytes", "for each GiB"], rows)


def print_peaks(results):
    names = list(dict.fromkeys(r["allocator"] for r in results.of("l", what="peak")))
    rows = []
    for name in names:
        found = results.of("l", what="peak", allocator=name)
        rows.append([name, *(f"{r['resident_per_live']:.2f}" for r in found),
                     *(f"{r['reserved_per_live']:.2f}" if "reserved_per_live" in r else "" for r in found)])
    sequences = list(dict.fromkeys(r["sequence"] for r in results.of("l", what="peak")))
    print(f"\n{results.words}: l: peak resident / peak live bytes, each byte written; and what exclave had reserved")
    table(["", *sequences, *(f"{s} reserved" for s in sequences)], rows)


def print_copies(results):
    print("\ncopies, CPU ns for one call; ratios to memcpy at the same alignments: median (worst) over them")
    rows = [[f"{size:,} B", f"{base:.1f}",
             *(f"{ratio_words(statistics.median(r))} ({ratio_words(max(r))})" if r else "-" for r in ratios)]
            for size, base, ratios in results.memcpy_ratios()]
    table(["bytes", "memcpy ns", *[text for _, text, _ in COPIES]], rows)


def print_all(sections):
    for results in sections:
        for group in plan.GROUPS:
            if results.workloads(group):
                print_pairs(results, group)
                print_ratios(results, group)
        if results.of("h"):
            print_tails(results)
        if results.of("l", what="peak"):
            print_peaks(results)
    once = sections[0]
    if any(map(once.of, plan.ONCE)):
        print(f"\nMeasured once, with {once.words}:")
    for workload, show in (("k", print_memory_calls), ("m", print_areas), ("copy", print_copies)):
        if once.of(workload):
            show(once)
    if once.of("l", what="books"):
        print_books(once)
    if once.of("query") or once.of("i"):
        print_regions(once)
    print()
    calls = max((r["host_calls"] for results in sections for r in results.of("h", allocator="exclave")), default=0)
    if calls:
        print(f"bench: exclave made {calls} host calls in the steady state of h; there should be none")
    for results in sections:
        for verdict in filter(None, map(results.verdict, plan.GROUPS)):
            print(f"bench: {verdict}")
    for note in filter(None, [n for results in sections for n in results.notes()] + [once.warning()]):
        print(f"bench: {note}")
