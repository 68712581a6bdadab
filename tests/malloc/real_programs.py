#!/usr/bin/env python3
"""Real programs under libexclave_malloc.so must do what they do without it.

  real_programs.py LIBRARY           runs all that are installed; says which are not
  real_programs.py LIBRARY NAME...   only these

Each runs twice in a fresh folder: plain, and with LIBRARY preloaded. Exit status, stdout and stderr must be the same.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT_S = 120

PYTHON = r"""
import hashlib, json, multiprocessing, os, re, subprocess, threading
def work(seed):
    data = {f"k{i}": [seed, i, "x" * (i % 97)] for i in range(4000)}
    for _ in range(3):
        data = json.loads(json.dumps(data))
    text = json.dumps(data, sort_keys=True)
    return len(re.findall(r"x{5,}", text)), hashlib.sha256(text.encode()).hexdigest()
results = {}
def in_thread(n): results[n] = work(n)
threads = [threading.Thread(target=in_thread, args=(n,)) for n in range(6)]
for t in threads: t.start()
# Children while the threads allocate.
out = [subprocess.run(["/bin/echo", str(n)], capture_output=True).stdout for n in range(10)]
for n in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if work(n)[0] > 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
for t in threads: t.join()
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map(work, range(6)))
print(sorted(results.items()), out)
"""

SQL = """
PRAGMA cache_size=-8000;
CREATE TABLE a(id INTEGER PRIMARY KEY, k INTEGER, v TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60000)
  INSERT INTO a SELECT i, (i*7919)%60000, hex(i*31) || 'text' FROM n;
CREATE INDEX a_k ON a(k);
CREATE TABLE b AS SELECT k AS id, v FROM a WHERE k % 3 = 0;
DELETE FROM a WHERE id % 5 = 0;
SELECT count(*), sum(a.id), max(b.v) FROM a JOIN b ON a.k = b.id;
SELECT k/1000, count(*), group_concat(substr(v,1,2)) FROM a GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5;
VACUUM;
PRAGMA integrity_check;
"""

PERL = r"""
my %h; for my $i (1..150000) { $h{"key" . ($i * 7919 % 50000)} .= chr(65 + $i % 26); }
my $n = 0; for my $k (sort keys %h) { $n += length($h{$k}) if $h{$k} =~ /A.*Z|Q/; }
my @a = map { [ $_, "x" x ($_ % 50) ] } 1..50000; @a = sort { $a->[1] cmp $b->[1] or $b->[0] <=> $a->[0] } @a;
print "$n $a[0][0] $a[-1][0]\n"; for (1..5) { my $p = fork; if (!$p) { my $s = "y" x 100000; exit length($s) != 100000; } waitpid $p, 0; print $? ; }
"""

LUA = r"""
local t = {} for i = 1, 300000 do t[i % 5000] = {i, tostring(i), string.rep("z", i % 60)} end
local parts = {} for k, v in pairs(t) do parts[#parts + 1] = v[2] .. v[3] end table.sort(parts)
print(#table.concat(parts), parts[1], parts[#parts]) collectgarbage() print(#parts)
"""

BASH = r"""
declare -A seen; for i in {1..300}; do seen[$((i * 37 % 101))]+=$i; done
for i in {1..60}; do x=$( (echo "$i" | tr 0-9 a-j) ); [[ $(printf %s "$x" | wc -c) -gt 0 ]] || echo bad; done
for i in {1..20}; do (exit $((i % 3))) & done; wait; echo "${#seen[@]} $x"
"""


def lines(count):
    return "".join(f"{(n * 2654435761) % 1000003} line {n % 977} {'w' * (n % 40)}\n" for n in range(count))


def cases():
    """Name: what must be installed, the command, its stdin."""
    compiled = f"-std=c++20 -O1 -c -I{ROOT}/include -I{ROOT}/src -I{ROOT}/ports"
    compiled += f" -DEXCLAVE_THREAD_SLOT_HEADER='\"process/thread_slot.hpp\"' {ROOT}/src/heap/core_blocks.cpp -o out.o"
    return {
        "python3": (["python3"], ["python3", "-c", PYTHON], ""),
        "sqlite3": (["sqlite3"], ["sqlite3", "db"], SQL),
        "perl": (["perl"], ["perl", "-e", PERL], ""),
        "lua": (["lua5.4"], ["lua5.4", "-"], LUA),
        "g++": (["g++"], ["sh", "-c", f"g++ {compiled} && sha256sum out.o"], ""),
        "clang++": (["clang++-14"], ["sh", "-c", f"clang++-14 {compiled} && sha256sum out.o"], ""),
        "sort": (["sort"], ["sort", "-S", "20M", "--parallel=2"], lines(200000)),
        "xz": (["xz"], ["sh", "-c", "xz -T2 -3 | xz -d | sha256sum"], lines(150000)),
        "bash": (["bash"], ["bash", "-c", BASH], ""),
    }


def run(command, text, library):
    env = dict(os.environ, LC_ALL="C", PYTHONHASHSEED="0", PERL_HASH_SEED="0")
    if library is not None:
        env["LD_PRELOAD"] = library
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, input=text.encode(), capture_output=True, cwd=folder, env=env, timeout=TIMEOUT_S)
    return done.returncode, done.stdout, done.stderr


def tell_difference(plain, preloaded):
    for what, a, b in zip(("exit status", "stdout", "stderr"), plain, preloaded):
        if a != b:
            print(f"  {what} plain:     {str(a)[:1000]}\n  {what} preloaded: {str(b)[:1000]}")


def main():
    library, only = os.path.abspath(sys.argv[1]), sys.argv[2:]
    failed = 0
    for name, (needs, command, text) in cases().items():
        if only and name not in only:
            continue
        missing = [program for program in needs if shutil.which(program) is None]
        if missing:
            print(f"skipped {name}: {', '.join(missing)} not installed")
            continue
        start = time.monotonic()
        plain, preloaded = run(command, text, None), run(command, text, library)
        good = plain == preloaded and plain[0] == 0
        print(f"{'ok     ' if good else 'FAILED '} {name} ({time.monotonic() - start:.1f} s)", flush=True)
        if not good:
            tell_difference(plain, preloaded)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
