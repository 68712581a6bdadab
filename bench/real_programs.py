#!/usr/bin/env python3
"""Times real programs under glibc's malloc, its peers and libexclave_malloc.so, by LD_PRELOAD.

  real_programs.py LIBRARY OUT_DIR                 five rounds; writes OUT_DIR/real_programs.json
  real_programs.py LIBRARY OUT_DIR --rounds 1      a rough look
  real_programs.py LIBRARY OUT_DIR --only lua,xz   some programs

In each round every allocator takes its turn with each program, in an order drawn anew. The figure is processor time, user
and system, of the program and its children, and the largest resident set of one process (never less than this script's own,
from which it is forked); the median over the rounds. The spread is the distance between the quartiles divided by the median.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from driver import PEERS, library_path  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent

PYTHON_JSON = """
import json, re
data = {str(i): [j * 1.5 for j in range(i % 40)] + ["w" * (i % 90)] for i in range(20000)}
for _ in range(4):
    data = json.loads(json.dumps(data))
print(len(re.findall(r'w{9,}', json.dumps(data))))
"""
PYTHON_THREADS = """
import threading
def work(n):
    words = {}
    for i in range(120000):
        words.setdefault((i * n) % 5003, []).append("item %d" % i)
    print(sum(map(len, words.values())))
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
for t in threads: t.start()
for t in threads: t.join()
"""
SQL = """
CREATE TABLE a(id INTEGER PRIMARY KEY, k INTEGER, v TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<250000)
  INSERT INTO a SELECT i, (i*7919)%250000, hex(i*31) || 'text' FROM n;
CREATE INDEX a_k ON a(k);
CREATE TABLE b AS SELECT k AS id, v FROM a WHERE k % 3 = 0;
SELECT count(*), sum(a.id), max(b.v) FROM a JOIN b ON a.k = b.id;
SELECT k/1000, count(*), group_concat(v) FROM a GROUP BY 1 ORDER BY 2 DESC LIMIT 2;
PRAGMA integrity_check;
"""
PERL = """
my %h; for my $i (1..400000) { $h{"key" . ($i * 7919 % 90000)} .= "abc" . ($i % 26); }
my @a = map { [ $_, "x" x ($_ % 50) ] } 1..200000; @a = sort { $a->[1] cmp $b->[1] } @a; print scalar(keys %h), "\\n";
"""
LUA = """
local t = {} for i = 1, 1500000 do t[i % 50000] = {i, tostring(i), string.rep("z", i % 60)} end
local s = 0 for k, v in pairs(t) do s = s + #v[2] + #v[3] end print(s)
"""
BASH = "for i in {1..400}; do x=$( (echo $i | tr 0-9 a-j) ); done; echo $x"
SMT = """
(set-logic QF_BV)(declare-const a (_ BitVec 28))(declare-const b (_ BitVec 28))
(assert (= (bvmul a b) #x0C0FFEB))(assert (bvugt a #x0000001))(assert (bvugt b #x0000001))
(assert (bvult a #x0FFFFFF))(assert (= ((_ extract 3 0) b) #b0111))(assert (= (bvurem b a) #x0000005))(check-sat)
"""


class Lines:
    """Made anew for each run: what this process holds at its peak counts as its children's until they exec."""

    def __iter__(self):
        return (f"{(n * 2654435761) % 1000003} line {n % 977}\n" for n in range(400000))


def programs():
    """Name: the command, its stdin in pieces."""
    flags = ["-std=c++20", "-O2", f"-I{ROOT}/include", f"-I{ROOT}/src", f"-I{ROOT}/ports",
             '-DEXCLAVE_THREAD_SLOT_HEADER="process/thread_slot.hpp"', f"{ROOT}/src/heap/core_blocks.cpp",
             "-S", "-o", "/dev/null"]
    return {
        "python json": (["python3", "-c", PYTHON_JSON], []),
        "python threads": (["python3", "-c", PYTHON_THREADS], []),
        "sqlite3": (["sqlite3", ":memory:"], [SQL]),
        "perl": (["perl", "-e", PERL], []),
        "lua": (["lua5.4", "-"], [LUA]),
        "g++": (["g++", *flags], []),
        "clang++": (["clang++-14", *flags], []),
        "z3": (["z3", "-in"], [SMT]),
        "sort": (["sort", "--parallel=2"], Lines()),
        "xz": (["xz", "-T2", "-3"], Lines()),
        "bash forks": (["bash", "-c", BASH], []),
    }


def allocators(library):
    """Name: what to preload. The peers that are not installed are left out."""
    found = {"glibc": None, "exclave": os.path.abspath(library)}
    for name, soname, package in PEERS:
        if path := library_path(soname):
            found[name] = path
        else:
            print(f"without {name}: package {package} is not installed")
    return found


def turn(command, text, preload):
    """Processor seconds and resident KiB of one run."""
    env = dict(os.environ, LC_ALL="C", PYTHONHASHSEED="0", PERL_HASH_SEED="0", PYTHONMALLOC="malloc")
    if preload:
        env["LD_PRELOAD"] = preload
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as stdin:
        stdin.writelines(line.encode() for line in text)
        stdin.seek(0)
        child = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL, cwd=folder, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command[0]} under {preload} ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def spread(values):
    if len(values) < 4:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / statistics.median(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("out_dir", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    contenders = allocators(options.library)
    chosen = {}
    for name, (command, text) in programs().items():
        if options.only and name not in options.only.split(","):
            continue
        if shutil.which(command[0]) is None:
            print(f"without {name}: {command[0]} is not installed")
        else:
            chosen[name] = command, text

    times = {(p, a): [] for p in chosen for a in contenders}
    resident = {key: [] for key in times}
    for round_number in range(options.rounds):
        print(f"round {round_number + 1} of {options.rounds}", flush=True)
        for program, (command, text) in chosen.items():
            for name in random.sample(list(contenders), len(contenders)):
                seconds, kib = turn(command, text, contenders[name])
                times[program, name].append(seconds)
                resident[program, name].append(kib)

    print(f"\nprocessor seconds (ratio to glibc), spread; resident MiB\n{'':15}" + "".join(f"{a:>28}" for a in contenders))
    results = []
    for program in chosen:
        base = statistics.median(times[program, "glibc"])
        row = f"{program:15}"
        for name in contenders:
            seconds, noise = statistics.median(times[program, name]), spread(times[program, name])
            mib = statistics.median(resident[program, name]) / 1024
            ratio = seconds / base if base else 0.0
            row += f"{seconds:8.3f} ({ratio:4.2f}) {noise:4.0%} {mib:6.0f}M"
            results.append({"program": program, "allocator": name, "seconds": seconds, "ratio_to_glibc": ratio,
                            "spread": noise, "resident_mib": mib, "rounds": times[program, name]})
        print(row)
    options.out_dir.mkdir(parents=True, exist_ok=True)
    (options.out_dir / "real_programs.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
