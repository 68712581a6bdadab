#!/usr/bin/env python3
"""The results as one page that needs nothing else: report_html.py results.json >report.html"""
import html
import json
import pathlib
import statistics
import sys

import plan
import results as asked
import svg
from results import QUANTILES, nanoseconds, ratio_words, size_words
from svg import el

STYLE = pathlib.Path(__file__).resolve().parent / "report.css"
PAGES = {  # what the head of a part says
    "small": "Transparent huge pages are switched off for every process here, whatever its allocator asks for.",
    "huge": "The kernel may give huge pages to all memory of every process here, whether its allocator asks for them or not.",
}
AREA_LINES = [("map_far", "map, one place", "l1"), ("map_fixed", "map, fixed", "l2"), ("split", "split", "l3"),
              ("storm_merge", "storm, merge", "l4"), ("visit", "look up", "l5")]
COPIES_SHORT = ["out, aligned", "out, padded", "out, else", "in, aligned", "in, else"]  # as COPIES


def kind(name, ours="exclave"):
    """The class that colours an allocator."""
    if name == ours:
        return "ours"
    return "variant" if name.startswith("exclave") else "null" if name == "null" else "peer"


def esc(value):
    return html.escape(str(value))


def card(title, note, *inner, class_="card"):
    return el("section", el("h3", esc(title)), el("p", esc(note), class_="note") if note else "", *inner, class_=class_)


def table(head, rows, row_classes=None):
    """Cells are text or (text, class)."""
    def cell(tag, value):
        words, class_ = value if isinstance(value, tuple) else (value, None)
        return el(tag, esc(words), class_=class_)

    body = [el("tr", *(cell("th" if i == 0 else "td", v) for i, v in enumerate(row)), class_=(row_classes or {}).get(n))
            for n, row in enumerate(rows)]
    return el("div", el("table", el("thead", el("tr", *(cell("th", h) for h in head))), el("tbody", *body)), class_="wide")


def half_spread(spread):
    return "" if spread is None else f" ±{50 * spread:.0f}%"


def shade(ratio):
    """Five steps on either side of even."""
    for limit, class_ in ((0.5, "f2"), (0.95, "f1"), (1.05, "even"), (2, "s1")):
        if ratio < limit:
            return class_
    return "s2"


def ratio_section(results, group):
    peers, rows = results.peers(group), []
    for workload in results.workloads(group):
        worst = results.worst_ratio(workload)
        if not worst:
            continue
        found = [results.ratios(peer, group).get(workload) for peer in peers]
        rows.append([f"{workload}", *((f"{r['exclave_ratio']:.2f}{half_spread(r['exclave_ratio_spread'])}", shade(r["exclave_ratio"]))
                                      if r else "–" for r in found),
                     (f"{worst[0]:.2f}", shade(worst[0])), (group[workload], "what")])
    if not rows:
        return ""
    means = [results.mean_ratio(peer, group) for peer in peers]
    rows.append(["mean", *((f"{m:.2f}", shade(m)) if m else "–" for m in means), "", ("geometric", "what")])
    where = ", on given memory" if group is plan.GIVEN else ""
    return el("h2", f"exclave's time divided by the peer's{where}, {results.words}") + card(
        "Below 1, exclave is faster", "Taken within each round, then the median; ± half the distance of the quartiles.",
        table(["", *peers, "fastest peer", ""], rows, {len(rows) - 1: "sum"}), class_="card full")


def bar_limit(rows, ours):
    """So that exclave and its rivals can be told apart beside one that is far off."""
    totals = {name: sum(v for v, _ in parts) for name, _, parts, _, _ in rows if name != "null"}
    middle = statistics.median(totals.values() or [1])
    return min(max([*totals.values(), 1e-9]), 2.5 * max(middle, totals.get(ours, 0))) * 1.04


def pair_cards(results, group):
    cards = []
    for workload in results.workloads(group):
        rows = []
        for run in sorted(results.of(workload), key=lambda r: r["ns_per_pair"]):
            name = run["allocator"]
            if "get_ns" in run:
                parts = [(run["get_ns"], ""), (run["put_ns"], "second")]
                words = f"{nanoseconds(run['get_ns'])} + {nanoseconds(run['put_ns'])}"
            else:
                parts, words = [(run["ns_per_pair"], "")], nanoseconds(run["ns_per_pair"]) + half_spread(run["spread"])
            rows.append((name, kind(name, plan.ours(workload)), parts, run["spread"], words))
        halves = any(len(parts) == 2 for _, _, parts, _, _ in rows)
        note = group[workload] + (" · get + put, ns (wall, medians)" if halves else " · CPU ns a pair")
        cards.append(card(workload, note, svg.bars(f"{workload}: {note}", rows, bar_limit(rows, plan.ours(workload)))))
    if not cards:
        return ""
    legend = el("p", *(el("span", el("i", class_=f"chip {k}"), esc(words), class_="key") for k, words in (
        ("ours", "exclave: all checks on, books apart" + (", in an attached pool" if group is plan.GIVEN else "")),
        ("variant", "exclave otherwise" + (": grown memory; by device" if group is plan.GIVEN else "")),
        ("peer", "peers, as built"), ("null", "null: the harness, in every figure"))), class_="legend")
    title = "The same on given memory" if group is plan.GIVEN else "One allocation and one free"
    return el("h2", f"{title}, {results.words}") + legend + el("div", *cards, class_="cards")


def tail_cards(results):
    cards = []
    for call in ("allocate", "deallocate"):
        found = results.of("h", call=call)
        if not found:
            continue
        rows = [(r["allocator"], kind(r["allocator"]), [max(1.0, r[key]) for key, _ in QUANTILES])
                for r in sorted(found, key=lambda r: r["p99_ns"])]
        ours = results.of("h", call=call, allocator="exclave")
        note = "ns of wall time, logarithmic; null is the clock's reading, and what an interruption costs is in every max"
        if ours:
            note += f" · exclave: {ours[0]['host_calls']} host calls in {ours[0]['calls']:,} pairs"
        cards.append(card(f"h · {call}", note, svg.quantiles(f"h, {call}", rows, [t for _, t in QUANTILES],
                                                             short_time, nanoseconds)))
    return el("h2", f"Tails of single calls, in c4, {results.words}") + el("div", *cards, class_="cards") if cards else ""


def short_time(value):
    for limit, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if value >= limit:
            return f"{value / limit:.0f} {unit}"
    return f"{value:.0f} ns" if value >= 1 else f"{value:g}"


def region_cards(results):
    cards, right, series = [], [], []
    for where, class_ in (("anywhere", "l1"), ("nearby", "l2")):
        series.append((f"query {where}", class_, results.of("query", where=where)))
    for call, class_ in (("attach", "l3"), ("detach", "l4")):
        series.append((call, class_, results.of("i", call=call)))
    series = [(name, class_, runs) for name, class_, runs in series if runs]
    if series:
        counts = sorted({r["regions"] for _, _, runs in series for r in runs})
        lines = [(name, class_, [r["ns_per_call"] for r in runs]) for name, class_, runs in series if len(runs) == len(counts)]
        if lines:
            chart = svg.lines("calls by number of regions", lines, [f"{n:,}" for n in counts], short_time, nanoseconds, height=420)
            cards.append(card("query and i", "One call by number of regions, logarithmic. Anywhere: any region; nearby: one of 64 "
                              "neighbours.", chart))
    ours = results.of("k", allocator="exclave")
    if ours:
        rows, top = [], []
        for run in ours:
            bare = results.of("k", allocator="bare", call=run["call"])[0]
            rows += [(run["call"], "null", [(bare["ns_per_call"], "")], bare["spread"], f"{nanoseconds(bare['ns_per_call'])} bare"),
                     ("", "ours", [(run["ns_per_call"], "")], run["spread"],
                      f"{nanoseconds(run['ns_per_call'])} ({run['over_bare_ns']:+.0f})")]
            top += [bare["ns_per_call"], run["ns_per_call"]]
        right.append(card("k", "mmap, mprotect, munmap of 64 KiB outside: the bare system call, and through MemoryCalls. ns, medians.",
                          svg.bars("memory calls", rows, max(top) * 1.04)))
    pages = results.of("i")
    if pages:
        rows = [[r["call"], f"{r['regions']:,}", f"{nanoseconds(r['ns_per_call'])}{half_spread(r['spread'])}", nanoseconds(r["p99_ns"]),
                 f"{r['trusted_bytes_per_region']:,.0f} B" if r["call"] == "attach" and r["regions"] > 1 else ""]
                for call in ("attach", "detach") for r in pages if r["call"] == call]
        right.append(card("i", "One page beside so many regions, ns.", table(["", "regions", "median", "p99", "books a region"], rows)))
    if right:
        cards.append(el("div", *right, class_="stack"))
    return el("h2", "Regions and memory calls") + el("div", *cards, class_="cards") if cards else ""


def area_section(results):
    if not results.of("m"):
        return ""
    counts, calls, books = results.by_areas()
    runs = {call: runs for call, _, runs in calls}
    lines = [(words, class_, [r["ns_per_call"] for r in runs[call]]) for call, words, class_ in AREA_LINES]
    chart = card("m", "One call by number of areas, over page operations that do nothing. ns, logarithmic.",
                 svg.lines("calls by number of areas", lines, [f"{n:,}" for n in counts], short_time, nanoseconds, height=640))
    rows = [[words, *(f"{nanoseconds(r['ns_per_call'])}{half_spread(r['spread'])}" for r in found)] for _, words, found in calls]
    rows.append(["books an area", *(f"{b:,.0f} B" for b in books)])
    figures = card("By number of areas", "ns for one call. Mixed: map, protect, protect, unmap, two threads on areas of their own.",
                   table(["", *(f"{n:,}" for n in counts)], rows, {len(rows) - 1: "sum"}))
    return el("h2", "The enclave's own memory") + el("div", chart, figures, class_="cards")


def copy_section(results):
    found = [row for row in results.memcpy_ratios() if all(row[2])]
    if not found:
        return ""
    sizes = [size_words(size) for size, _, _ in found]
    lines = [(name, f"l{k + 1}", [statistics.median(r[k]) for _, _, r in found]) for k, name in enumerate(COPIES_SHORT)]
    chart = card("Time divided by memcpy's", "By size, the median over the alignments, both axes logarithmic. Writes that are not whole, "
                 "aligned words go the slow way that INTEL-SA-00615 asks for.",
                 svg.lines("copies beside memcpy", lines, sizes, lambda t: f"{t:g}", mark=1, height=340))
    rows = [[size_words(size), f"{base:.1f}", *(f"{ratio_words(statistics.median(r))} ({ratio_words(max(r))})" for r in ratios)]
            for size, base, ratios in found]
    figures = card("Median (worst) over the alignments", "", table(["", "memcpy ns", *COPIES_SHORT], rows))
    return el("h2", "Copies across the boundary") + el("div", chart, figures, class_="cards copies")


def book_card(results):
    books = results.of("l", what="books")
    if books:
        rows = [[size_words(r["block_bytes"]), f"{100 * r['trusted_per_live']:.3f} %", size_words(r["trusted_bytes_per_gib"])]
                for r in books]
        return card("Trusted memory of exclave", "For blocks of one size. Trusted memory taken from the port.",
                    table(["blocks of", "of live bytes", "for each GiB managed"], rows))
    return ""


def peak_card(results):
    peaks = results.of("l", what="peak")
    if peaks:
        sequences = [s for s in plan.SEQUENCES if any(r["sequence"] == s for r in peaks)]
        rows, classes = [], {}
        for name in dict.fromkeys(r["allocator"] for r in peaks):
            found = {r["sequence"]: r for r in peaks if r["allocator"] == name}
            if name == "exclave":
                classes[len(rows)] = "ours"
            rows.append([name, *(f"{found[s]['resident_per_live']:.2f}" if s in found else "–" for s in sequences),
                         " / ".join(f"{r['reserved_per_live']:.2f}" for r in found.values() if "reserved_per_live" in r)])
        return card("Peak memory, divided by peak live bytes", "Resident set, each byte of each block written, the books in. "
                    "Last column: what exclave itself had reserved from the host.",
                    table(["", *sequences, "reserved"], rows, classes))
    return ""


def memory_section(results, shown):
    return el("h2", f"Memory, {results.words}") + el("div", shown, class_="cards") if shown else ""


def machine_section(results):
    machine = results.machine
    words = {"date": "Date", "exclave": "exclave", "compiler": "Compiler", "cpu": "Processor", "cores": "Cores", "memory": "Memory",
             "kernel": "Kernel", "os": "System", "huge_pages": "Huge pages of the system"}
    facts = [(label, machine[key]) for key, label in words.items() if key in machine]
    facts.append(("Rounds", f"at most {machine['rounds']}, each turn at least {machine['min_time_s']} s of CPU time; "
                  f"{machine['seconds']:.0f} s in all"))
    facts.append(("Used by others", f"{100 * machine['used_by_others']:.1f} % of the processors; stolen {100 * machine['stolen']:.1f} %"))
    facts += [(name, version) for name, version in machine["peers"].items()]
    items = el("dl", *(el("dt", esc(k)) + el("dd", esc(v)) for k, v in facts))
    return el("h2", "Machine and peers") + el("section", items, class_="card full")


def part_of_page(results):
    """All that was measured with one kind of pages, beside its peers."""
    inner = [section(results, group) for group in plan.GROUPS for section in (ratio_section, pair_cards)]
    inner += [tail_cards(results), memory_section(results, peak_card(results))]
    if not any(inner):
        return ""
    return el("h2", f"With {results.words}", class_="part") + el("p", esc(PAGES[results.pages]), class_="when") + "".join(inner)


def part_once(results):
    inner = [region_cards(results), area_section(results), copy_section(results), memory_section(results, book_card(results))]
    if not any(inner):
        return ""
    return el("h2", "exclave alone", class_="part") + el("p", f"Measured once, with {results.words}.", class_="when") + "".join(inner)


def page(document):
    sections = asked.sections(document)
    once, machine = sections[0], document["machine"]
    when = f"{machine['date'][:16].replace('T', ' ')} UTC · {machine['exclave']} · {machine['cpu']}, {machine['cores']} cores"
    head = [el("h1", "exclave beside other allocators"), el("p", esc(when), class_="when")]
    verdicts = [results.verdict(group) for results in sections for group in plan.GROUPS]
    head += [el("p", sentence(verdict), class_="verdict") for verdict in filter(None, verdicts)]
    warnings = [note for results in sections for note in results.notes()] + [once.warning()]
    if machine["quick"]:
        warnings.insert(0, "a quick look: few rounds, short turns. Not for decisions")
    head += [el("p", sentence(warning), class_="warning") for warning in filter(None, warnings)]
    body = el("main", el("header", *head), *map(part_of_page, sections), part_once(once), machine_section(once))
    return ("<!doctype html>\n" + el("html", el("head", '<meta charset="utf-8">', '<meta name="viewport" content="width=device-width">',
            el("title", "exclave beside other allocators"), el("style", STYLE.read_text())), el("body", body), lang="en") + "\n")


def sentence(words):
    return esc(words[0].upper() + words[1:]) + "."


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        text = page(json.loads(pathlib.Path(sys.argv[1]).read_text()))
    except OSError as error:
        sys.exit(f"report_html: {sys.argv[1]}: {error.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError):
        sys.exit(f"report_html: {sys.argv[1]} is no results.json of this version of bench/run.py")
    print(text, end="")


if __name__ == "__main__":
    main()
