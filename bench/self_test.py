#!/usr/bin/env python3
"""The driver on made-up turns: samples, tables, page, golden check. Runs no benchmark."""
import contextlib
import html.parser
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest.mock

import count
import driver
import exec_calls
import plan
import real_programs
import report_html
import results
import samples
import tables

COUNTERS = {"get_ns": 3.0, "put_ns": 4.0}


def gathered(everyone):
    """Two rounds of everything; exclave takes 10 ns, the others 20."""
    made = samples.Samples()
    for _ in range(2):
        for c in everyone:
            for w in filter(c.takes, [*plan.PAIRS, *plan.GIVEN]):
                time = 10 if c.name == plan.ours(w) else 20
                # With huge pages all take half the time, but boost, to which the kernel gives none.
                for pages, times, huge in (("small", 4, 0), ("huge", 4 if c.name == "boost" else 2, 2**21)):
                    made.add_pairs(w, c.name, pages, {
                        "cpu_time": time * times, "real_time": time * times, "iterations": 5, "pairs_per_iteration": 4, "host_calls": 0,
                        "huge_bytes": 0 if c.name == "boost" else huge, **(COUNTERS if w.lstrip("p")[0] == "g" else {})})
            calls = {f"{call}_{q}": 10.0 for call in ("allocate", "deallocate") for q in ("p50", "p99", "p999", "max")}
            for pages in plan.PAGES:
                made.tails.setdefault((c.name, pages), []).append({"calls": 100, "host_calls": 0, **calls})
        for regions in (1, 1000):
            for where in ("anywhere", "nearby"):
                made.add_query({"name": f"query/{where}/{regions}", "cpu_time": 9.0})
            times = {f"{call}{q}_ns": 80.0 for call in ("attach", "detach") for q in ("", "_p99")}
            made.regions.setdefault(regions, []).append({"trusted_used_bytes": 1e5, **times})
        made.calls.append({f"{who}_{call}_ns": 1e3 for who in ("bare", "exclave") for call in ("mmap", "mprotect", "munmap")})
        for areas in (100, 10_000):
            made.areas.setdefault(areas, []).append({"trusted_bytes": 1e5, **{f"{call}_ns": 30.0 for call in plan.AREA_CALLS}})
        for how in ("memcpy-out", "memcpy-in", "out", "out-padded", "in"):
            for untrusted in (0, 1):
                made.add_copy({"name": f"copy/{how}/64/{untrusted}/0", "cpu_time": 2.0})
    for size in plan.BOOK_BLOCKS:
        made.books[size] = {"live_bytes": 2**29, "reserved_bytes": 2**29, "trusted_bytes": 2**20, "trusted_used_bytes": 2**19}
    for c in everyone:
        for s in plan.SEQUENCES:
            reserved = 300 if c.policy.startswith("exclave") else 0
            for pages in plan.PAGES:
                made.peaks[s, c.name, pages] = {"peak_live_bytes": 100, "peak_resident_bytes": 150, "peak_reserved_bytes": reserved}
    return made


class Balance(html.parser.HTMLParser):
    """Each element closed, nothing fetched."""
    faults, stack = None, None

    def check(self, page):
        self.faults, self.stack = [], []
        self.feed(page)
        return self.faults + [f"<{tag}> stays open" for tag in self.stack]

    def handle_starttag(self, tag, attrs):
        self.faults += [f"<{tag}> fetches {value}" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


def golden_verdicts():
    """What the check says of figures below, at and above what is allowed, and of another compiler."""
    def verdict(figure, compiler="g++ (Debian 12.2.0-14) 12.2.0"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            well = count.check({("a", "exclave"): figure + 5.0, ("a", "null"): 5.0}, ["a"], compiler)
        return well, said.getvalue().count("--update")

    with tempfile.TemporaryDirectory() as folder:
        count.GOLDEN = pathlib.Path(folder) / "golden.json"
        count.GOLDEN.write_text(json.dumps({"compiler": "g++ 12", "instructions_per_pair": {"a": 60.0}}))
        return {"as it was": verdict(60) == (True, 0), "3 more": verdict(63) == (True, 0), "4 more": verdict(64) == (False, 1),
                "4 fewer": verdict(56) == (True, 1), "clang": verdict(99, "Debian clang version 14.0.6") == (True, 0)}


def exec_runs():
    """Of two rounds of a call that takes 100 ns natively and 400 inside; and of one that the system refuses."""
    measured = exec_calls.Measured()
    for _ in range(2):
        for side, ns in (("native", 100), ("inside", 400)):
            for name, (calls, took) in exec_calls.told(f"mmap munmap\t2\t{ns}\nshmat\t2\t0.0\n").items():
                measured.add("calls", name, calls, exec_calls.Side(side, []), took)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec_calls.print_runs(list(measured.runs()))
    return [(r["name"], r["ratio"], r["more_ns_per_call"]) for r in measured.runs()], said.getvalue()


def complaints(folder):
    """What bad input to the scripts is answered with: one line each."""
    bench = pathlib.Path(__file__).resolve().parent
    old = pathlib.Path(folder) / "old.json"
    old.write_text(json.dumps({"machine": {"contenders": []}, "runs": []}))  # of a version that did not tell pages apart
    for script, *arguments in (["run.py", folder], ["run.py", folder, "--pages", "small,large"], ["run.py", folder, "--rounds", "0"],
                               ["run.py", folder, "--min-time", "soon"], ["run.py", folder, "--only", "z"], ["run.py", folder, "--pages"],
                               ["report_html.py", old], ["report_html.py", bench / "run.py"], ["report_html.py", folder]):
        done = subprocess.run([sys.executable, bench / script, *arguments], capture_output=True, text=True)
        well = done.returncode != 0 and not done.stdout and re.fullmatch(r"(bench|report_html): .*\n", done.stderr)
        yield f"{script} {' '.join(map(str, arguments))}", bool(well)


def page_notes():
    """What is told where no process can have huge pages, where one can, and where a contender had none."""
    document = {"machine": {"contenders": ["null", "exclave", "glibc"], "pages": ["small"], "pages_missing": {"huge": "not available, never"}},
                "runs": []}
    yield asked_of(document) == [["no figures with huge pages: not available, never"]]
    document["machine"] |= {"pages": ["small", "huge"], "pages_missing": {}}
    document["runs"] = [{"workload": "a", "allocator": name, "pages": "huge", "huge_bytes": held}
                        for name, held in (("null", 0), ("exclave", 2**21), ("glibc", 0))]
    document["runs"].append({"workload": "c6", "allocator": "glibc", "pages": "huge", "huge_bytes": 2**21})
    document["runs"].append({"workload": "c6", "allocator": "exclave", "pages": "huge", "huge_bytes": 2**33})
    yield asked_of(document)[0] == [] and "gave few or none to glibc:" in asked_of(document)[1][0]


def system_settings(folder):
    """Whether huge pages can be had, by what the kernel's setting says; without one, the kernel has none."""
    setting = pathlib.Path(folder) / "enabled"
    with unittest.mock.patch.object(driver, "HUGE_PAGES", str(setting)):
        yield driver.no_huge_pages() == "the kernel has none"
        for text, told in (("always [madvise] never", None), ("[always] madvise never", None), ("always madvise [never]", f"{setting} is never")):
            setting.write_text(text + "\n")
            yield driver.no_huge_pages() == told


def asked_of(document):
    return [section.notes() for section in results.sections(document)]


def main():
    everyone = [driver.Contender("null", "null"), driver.Contender("exclave", "exclave"),
                driver.Contender("exclave-store", "exclave-store", only=["c5"]), driver.Contender("glibc", "malloc", peer=True),
                driver.Contender("exclave-pool", "exclave-pool", only=plan.GIVEN),
                driver.Contender("boost", "boost", only=[w for w in plan.GIVEN if w != "pr"], peer=True)]
    machine = {"date": "2000-01-01T00:00:00", "contenders": [c.name for c in everyone], "cpu": "<cpu>", "cores": 2, "quick": True,
               "pages": ["small", "huge"], "pages_missing": {}, "rounds": 2, "min_time_s": 0.1, "seconds": 1.0, "used_by_others": 0.5, "stolen": 0.0, "exclave": "x", "peers": {}}
    document = json.loads(json.dumps({"machine": machine, "runs": samples.runs(gathered(everyone), everyone, ["small", "huge"])}))
    asked, huge = results.sections(document)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        tables.print_all([asked, huge])
        preloads = real_programs.allocators("ours.so")
    with tempfile.TemporaryDirectory() as folder:
        told_off = dict(complaints(folder))
        settings = all(system_settings(folder))
    # A page of a few workloads only, too.
    few = {"machine": machine, "runs": [r for r in document["runs"] if r["workload"] == "query"]}
    checks = {
        "ratio": asked.ratios("glibc")["a"]["exclave_ratio"] == 0.5 and asked.mean_ratio("glibc") == 0.5,
        "verdict": asked.verdict() == f"with small pages, exclave is ahead of every peer in all {len(plan.PAIRS)} workloads",
        "ratio on given memory": asked.ratios("boost", plan.GIVEN)["pa"]["exclave_ratio"] == 0.5 and "a" not in asked.ratios("boost"),
        "peers apart": asked.peers() == ["glibc"] and asked.peers(plan.GIVEN) == ["boost"],
        "verdict on given memory": asked.verdict(plan.GIVEN).endswith(f"all {len(plan.GIVEN) - 1} workloads on given memory"),
        "ratio with huge pages": huge.ratios("glibc")["a"]["exclave_ratio"] == 0.5 and huge.pair("a", "glibc")["ns_per_pair"] == 10,
        "pages are not mixed": huge.ratios("boost", plan.GIVEN)["pa"]["exclave_ratio"] == 0.25 and not huge.of("query"),
        "pages are named": "gave few or none to boost:" in told.getvalue() and all(
            f"\n{words}: exclave / peer" in told.getvalue() for words in plan.PAGES.values()),
        "notes of pages": all(page_notes()),
        "huge pages by the system's setting": settings,
        "every workload has runs": {r["workload"] for r in document["runs"]} == set(plan.ALL),
        "tables warn": "others used 50 %" in told.getvalue(),
        "real programs have contenders": preloads["glibc"] is None and preloads["exclave"].endswith("/ours.so"),
        "page names all": all(f"<h3>{w}</h3>" in report_html.page(document) for w in [*plan.PAIRS, *plan.GIVEN]),
        "page has both parts": all(f">With {words}</h2>" in report_html.page(document) for words in plan.PAGES.values()),
        "page escapes": "<cpu>" not in report_html.page(document),
        "exec calls": exec_runs()[0] == [("mmap munmap", 4.0, 150.0)] and "4.00" in exec_runs()[1],
        **{f"one line for {what}": well for what, well in told_off.items()},
        **{f"golden: {name}": well for name, well in golden_verdicts().items()},
    }
    faults = [name for name, well in checks.items() if not well]
    faults += Balance().check(report_html.page(document)) + Balance().check(report_html.page(few))
    print("\n".join(f"self-test: {fault}" for fault in faults) or f"self-test: {len(checks)} checks and two pages, all well")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
