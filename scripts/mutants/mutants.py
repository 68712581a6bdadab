#!/usr/bin/env python3
"""Takes the checks of the library out, one at a time, and shows that a test fails for each.

  mutants.py [--files GLOB...] [--sample N] [--seed S] [--jobs J] [--budget SECONDS] [--again] [--build DIR]
                          mutates, prints, writes DIR/report.txt (DIR: build/mutants)
  mutants.py --beside OBJECTS [--rooms N] --sample N ...
                          a sample of the mutants in .cpp files, of so many rooms; only these files are compiled, and linked with
                          what `make test` left in OBJECTS (build/dev)
  mutants.py --check-list says whether equivalent.txt names mutants that are not there
  mutants.py --self-test  shows that the tool finds what it should

A mutant is one change to one expression of src/, ports/process/, ports/kernel/, tools/, malloc/, or of the parts of loader/ that run
anywhere: a guard that never (or always) holds, an operand of &&
or || left out, a comparison flipped, a 1 that becomes 0 in a bound, a check dropped, a verifier that always says yes, a state
that is stored without being compared; in tools/ and malloc/ also a statement that is left out (a sync, a wipe). All of them are compiled at once into a copy of the tree, and EXCLAVE_MUTANT chooses
one when a program starts (cut.py, mutates.hpp); so a mutant costs no compilation. Each test is run once to see
which mutants' places it comes by; a mutant is then tried by those tests only, and is killed by the first that fails,
crashes, hangs or eats memory. The short tests of its own room and those that stop at each instruction are always asked. It
survives when no test is left, or when the others that it passed take --budget (6 s) together; more of them could only kill
more. --again tries the survivors of the last run. --seed commit: each commit has its own sample, and has it again.

Programs (tools/, malloc/, loader/) have a copy of the tree and a build of their own when --files names nothing else; then only
their own tests are asked. Of the loader only options.cpp and policy.cpp are mutated, by the tests that are compiled with
them: the rest is a program without a C library that takes over the address space, and nothing in it reads EXCLAVE_MUTANT.
A sample beside another build (--beside) is of the library alone: tests start programs that lie in that build.

Not mutated: constant expressions, EXCLAVE_DCHECK, validate() and its helpers (the tests' own instrument), memory orders.
equivalent.txt lists the mutants that change nothing that can be seen, each with its reason.

Exit status: 0 when all tried mutants were killed, 1 when some survived or equivalent.txt names mutants that are not there,
2 for bad arguments or when the tests fail without any mutant.
"""
import argparse
import collections
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import cut  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COPIED = ["CMakeLists.txt", "cmake", "include", "src", "ports", "sim", "tests", "scripts", "malloc", "loader", "tools"]
LIBRARY = ["src", "ports/process", "ports/kernel"]
PROGRAMS = ["tools", "malloc", "loader/options.cpp", "loader/policy.cpp"]
MUTATED = LIBRARY + PROGRAMS
ROOMS = ["base", "port", "region", "page", "slab", "access", "capi", "ports", "heap", "memcall", "sim", "threats"]
PROGRAM_ROOMS = {"tools": "*", "malloc": "*", "exec": "Loader*"}  # and which of its tests are asked
# They read machine code, which has the mutants' switches in it.
LEFT_OUT = re.compile(r"ObjectCode|MachineCode")
# Tests that stop a call at each of its instructions. What only a race or a signal meets, only they can show, so they may take
# longer than the budget.
STEPPED = re.compile(r"Stopped|Meanwhile|EveryInstruction|Abandoned")
STEPPED_S = 60.0       # without a mutant, at most
QUICK_S = 1.0          # the same for what a sample is tried by first
# Whose tests those have that lie elsewhere; the first that fits.
TESTED_BY = {"tools/": "tools", "malloc/": "malloc", "loader/": "exec", "src/heap/core_mappings.cpp": "memcall", "src/port/lock_audit.cpp": "base", "src/port/": "region", "ports/process/c_api.cpp": "capi"}
SHORT_S = 0.3          # tests below this share a process
TOGETHER_S = 4.0       # and so many seconds of them at most
LEAST_TIMEOUT_S = 10
BUSY = 10              # a test that would take a second may take so many on a machine that does other things, too
MOST_BYTES = 4 << 30
MOST_OUTPUT = 64 << 20


# seconds: of processor time, so that they are the same on a busy machine; places: the numbers of the mutants whose places it
# comes by.
Test = collections.namedtuple("Test", "room name seconds wall places")
Batch = collections.namedtuple("Batch", "room names seconds wall always")


class Fault(Exception):
    """What the user can mend: one line, exit status 2."""


def all_mutants(root):
    """[(file number, path, text, mutants)] for every source that is mutated."""
    found = []
    for top in MUTATED:
        files = [root / top] if (root / top).is_file() else sorted((root / top).rglob("*"))
        for file in files:
            if file.suffix in (".cpp", ".hpp"):
                path, text = str(file.relative_to(root)), file.read_text()
                leave_out = path.startswith(("tools/", "malloc/"))
                found.append((len(found), path, text, cut.mutants_of(path, text, leave_out)))
    return found


def read_equivalent(path):
    """{key: reason}. An entry is a line with the mutant's name, then indented lines with the reason."""
    entries = {}
    name = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            if name is None:
                raise Fault(f"{path.name}:{number}: a reason without a mutant")
            entries[name] = (entries[name] + " " + line.strip()).strip()
        else:
            name = line.strip()
            if name in entries:
                raise Fault(f"{path.name}:{number}: named twice")
            entries[name] = ""
    for name, reason in entries.items():
        if not reason:
            raise Fault(f"{path.name}: no reason given for: {name}")
    return entries


def put(path, text):
    """Writes the file only when it changes, so that what was built stays."""
    if path.exists() and path.read_bytes() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def write_tree(sources, uncompilable, tree):
    """The copy of the tree with all mutants in it."""
    mutated = {}
    for number, path, text, mutants in sources:
        kept = [(i, m) for i, m in enumerate(mutants) if m.key() not in uncompilable]
        mutated[path] = cut.rewritten(text, kept, number * cut.PER_FILE).encode()
    wanted = set()
    for top in COPIED:
        files = [ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*")
        for file in files:
            if not file.is_file() or "__pycache__" in file.parts:
                continue
            path = file.relative_to(ROOT)
            wanted.add(path)
            put(tree / path, mutated.get(str(path)) or file.read_bytes())
    for name, place in (("mutates.cpp", "src/base/mutates.cpp"), ("mutates.hpp", "mutates.hpp")):
        wanted.add(pathlib.Path(place))
        put(tree / place, (HERE / name).read_bytes())
    for file in list(tree.rglob("*")):
        if file.is_file() and file.relative_to(tree) not in wanted:
            file.unlink()


def blamed(sources, tree, complaints):
    """The names of the mutants on the lines that a compiler complained of."""
    found = set()
    for path, line in set(re.findall(rf"^{re.escape(str(tree))}/((?:src|ports|tools|malloc|loader)/[^:\n]+):(\d+):", complaints, re.M)):
        for _, name, text, mutants in sources:
            for mutant in mutants if name == path else []:
                first = text.count("\n", 0, mutant.begin) + 1
                if first <= int(line) <= first + text.count("\n", mutant.begin, mutant.end):
                    found.add(mutant.key())
    return found


def compiled(sources, build, tree, once):
    """What had to be left out so that `once`, which is told so and gives (done?, complaints), compiles the mutants in the tree."""
    remembered = build / "uncompilable.json"
    uncompilable = set(json.loads(remembered.read_text())) if remembered.exists() else set()
    for _ in range(10):
        done, complaints = once(uncompilable)
        (build / "compile.log").write_text(complaints)
        if done:
            return uncompilable
        found = blamed(sources, tree, complaints) - uncompilable
        if not found:
            break
        uncompilable |= found
        remembered.write_text(json.dumps(sorted(uncompilable), indent=1))
    raise Fault(f"the copy does not compile, and not for a mutant: see {build / 'compile.log'}")


def run(command, **options):
    """(has it succeeded?, all that it said)"""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options)
    return done.returncode == 0, done.stdout


def are_programs(sources):
    return all(path.startswith(tuple(PROGRAMS)) for _, path, _, _ in sources)


def compile_all(sources, build, jobs):
    """Compiles the copy: (the names of mutants that do not compile and were left out, {room: its test program})."""
    programs = are_programs(sources)
    tree, objects = build / "tree", build / "build"
    rooms = sorted({room_of(path) for _, path, _, _ in sources}) if programs else ROOMS
    rooms = [room for room in rooms if list((ROOT / "tests" / room).glob("*_test.cpp"))]
    with_programs = "ON" if programs else "OFF"

    def once(uncompilable):
        write_tree(sources, uncompilable, tree)
        if not (objects / "build.ninja").exists():
            done, said = run(
                ["cmake", "-S", tree, "-B", objects, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1",
                 f"-DCMAKE_CXX_FLAGS=-w -include {tree / 'mutates.hpp'}", "-DEXCLAVE_BUILD_TESTS=ON", "-DEXCLAVE_BUILD_EXAMPLES=OFF",
                 f"-DEXCLAVE_BUILD_TOOLS={with_programs}", f"-DEXCLAVE_BUILD_MALLOC={with_programs}"])
            if not done:
                raise Fault(f"cmake fails: {said.strip().splitlines()[-1:]}")
        return run(["ninja", "-C", objects, "-k", "0", f"-j{jobs}", *(f"{room}_test" for room in rooms)])

    uncompilable = compiled(sources, build, tree, once)
    return uncompilable, {room: objects / "tests" / f"{room}_test" for room in rooms}


def compile_beside(objects, sources, chosen, build, jobs):
    """Compiles the chosen mutants' files alone, as `objects` has them: (the names of those left out, the new objects)."""
    tree = build / "tree"
    listed = objects / "compile_commands.json"
    if not listed.exists():
        raise Fault(f"--beside: {objects} is no build folder; `make test` makes one")
    commands = {entry["file"]: entry["command"] for entry in json.loads(listed.read_text())
                if re.search(r"-o CMakeFiles/exclave_(core|port)\.dir/", entry["command"])}
    numbers = {number for number, _ in chosen}
    files = [(first * cut.PER_FILE, path, text, [(i, m) for i, m in enumerate(mutants) if first * cut.PER_FILE + i in numbers])
             for first, path, text, mutants in sources]
    files = [file for file in files if file[3]]
    put(tree / "mutates.hpp", (HERE / "mutates.hpp").read_bytes())

    def compile_one(command, source, output):
        command = re.sub(r" -o \S+ -c \S+| -Werror\b", "", command)
        return run(f"{command} -w -o '{output}' -c '{source}'", shell=True, cwd=objects)

    def once(uncompilable):
        work = [(commands[str(ROOT / files[0][1])], HERE / "mutates.cpp", tree / "mutates.o")]
        for first, path, text, mutants in files:
            put(tree / path, cut.rewritten(text, [(i, m) for i, m in mutants if m.key() not in uncompilable], first).encode())
            work.append((f"{commands[str(ROOT / path)]} -include '{tree / 'mutates.hpp'}'", tree / path, tree / f"{path}.o"))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            done = list(pool.map(lambda item: compile_one(*item), work))
        return all(ok for ok, _ in done), "".join(said for _, said in done)

    uncompilable = compiled([(0, path, text, [m for _, m in mutants]) for _, path, text, mutants in files], build, tree, once)
    return uncompilable, [tree / "mutates.o"] + [tree / f"{path}.o" for _, path, _, _ in files]


def link_beside(objects, new, rooms, build, jobs):
    """{room: its test program}, linked from `objects`, but for what the new objects bring."""
    def one(room):
        program = build / "tests" / f"{room}_test"
        program.parent.mkdir(parents=True, exist_ok=True)
        done, said = run(["ninja", "-C", objects, "-t", "commands", f"tests/{room}_test"])
        link = said.strip().splitlines()[-1]
        if not done or " libexclave.a" not in link:
            raise Fault(f"--beside: no way to link {room}_test is known: {link}")
        # What an object defines is not taken from the library.
        link = link.replace(" libexclave.a", "".join(f" {file}" for file in new) + " libexclave.a", 1)
        done, said = run(re.sub(r" -o tests/\S+", f" -o {program}", link), shell=True, cwd=objects)
        if not done:
            raise Fault(f"{room}_test cannot be linked, is `make test` through? {said.strip()}")
        return room, program

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return dict(pool.map(one, rooms))


def resident_bytes(group):
    """What a process has in memory; 0 when it is gone."""
    try:
        with open(f"/proc/{group}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def processor_seconds(process):
    """What a process has used so far; 0 when it is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as stat:
            return sum(map(int, stat.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0


def run_tests(program, tests, environment, timeout_s, processor_s=float("inf")):
    """("passed" | "failed" | "crashed" | "hung" | "ate memory" | "never stopped printing", the failing test, seconds of
    processor time) of one run."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [program, "--gtest_brief=1", "--gtest_fail_fast", "--gtest_filter=" + ":".join(tests)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | environment, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
        deadline = time.monotonic() + timeout_s
        verdict, ended, pause_s = None, 0, 0.001
        while verdict is None and ended == 0:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended == 0 and (time.monotonic() > deadline or processor_seconds(process.pid) > processor_s):
                verdict = "hung"
            elif ended == 0 and resident_bytes(process.pid) > MOST_BYTES:
                verdict = "ate memory"
            elif ended == 0 and os.fstat(output.fileno()).st_size > MOST_OUTPUT:
                verdict = "never stopped printing"
            elif ended == 0:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.1)
        try:  # children that a test left behind, too: they are in its session
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if ended == 0:
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read(MOST_OUTPUT).decode(errors="replace")
    failed = re.search(r"^\[  FAILED  \] ([\w/.]+)", text, re.M)
    name = failed[1].rstrip(",") if failed else tests[0] if len(tests) == 1 else "one of " + str(len(tests))
    if verdict is not None:
        return verdict, name, used.ru_utime + used.ru_stime
    if process.returncode == 0:
        return "passed", "", used.ru_utime + used.ru_stime
    return ("failed" if failed else "crashed"), name, used.ru_utime + used.ru_stime


def list_tests(program):
    lines = subprocess.run([program, "--gtest_list_tests"], capture_output=True, text=True, check=True).stdout.splitlines()
    tests, suite = [], ""
    for line in lines:
        name = line.split("#")[0].rstrip()
        if not name.startswith(" "):
            suite = name
        elif not LEFT_OUT.search(suite + name) and "DISABLED_" not in suite + name:
            tests.append(suite + name.strip())
    return tests


def digest_of(program):
    """Of a test program, and of what tests start or load."""
    beside = [program.parent.parent / name for name in ("exclave", "exclave-loader", "libexclave_malloc.so")]
    digest = hashlib.sha256()
    for file in [program] + [file for file in beside if file.exists()]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def baseline(build, programs, numbers, jobs, budget_s, say, quick=False):
    """[Test] of all that the programs hold, kept while these are the same. Of a test that takes more than the budget (or than
    STEPPED_S) nothing is known (places is None), and it is not asked. Quick: of those that take QUICK_S at most."""
    def limit(test):
        return QUICK_S if quick else STEPPED_S if STEPPED.search(test) else budget_s

    digests = {room: digest_of(program) for room, program in programs.items()}
    kept = build / "baseline.json"
    known = {}
    if kept.exists():
        data = json.loads(kept.read_text())
        for test in map(lambda fields: Test(*fields), data["tests"]):
            if test.room in digests and data["programs"].get(test.room) == digests[test.room] and (
                    test.places is not None or test.seconds >= limit(test.name)):
                known[(test.room, test.name)] = test
    work = [(room, test) for room in programs for test in list_tests(programs[room])
            if fnmatch.fnmatch(test, PROGRAM_ROOMS.get(room, "*")) and (room, test) not in known and not (quick and STEPPED.search(test))]
    if work:
        say(f"running {len(work)} tests once, to see what each comes by")

    def once(room, name):
        with tempfile.NamedTemporaryFile(dir=build) as met:
            met.truncate(numbers)
            start = time.monotonic()
            verdict, _, seconds = run_tests(programs[room], [name], {"EXCLAVE_MUTANTS_MET": met.name}, BUSY * limit(name),
                                            limit(name))
            places = [i for i, byte in enumerate(pathlib.Path(met.name).read_bytes()) if byte]
            return verdict, Test(room, name, round(seconds, 3), round(time.monotonic() - start, 3), places)

    def one(item):
        verdict, test = once(*item)
        if verdict not in ("passed", "hung"):  # a busy machine gets a second chance
            verdict, test = once(*item)
        if verdict == "hung" or verdict == "passed" and test.seconds > limit(test.name):
            return "passed", test._replace(seconds=max(test.seconds, limit(test.name)), places=None)
        return verdict, test

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, work))
    tests = list(known.values()) + [test for verdict, test in results if verdict == "passed"]
    kept.write_text(json.dumps({"programs": digests, "tests": tests}))
    broken = [f"{test.room}.{test.name} ({verdict})" for verdict, test in results if verdict != "passed"]
    if broken:
        raise Fault(f"without any mutant these tests fail: {', '.join(broken)}")
    return [test for test in tests if test.places is not None]


def batches(tests, own_room):
    """[Batch], the likeliest evidence first: the own room's short tests, its long ones, those that stop at each instruction;
    other rooms' short ones, long ones."""
    def batch_of(group, own):
        return Batch(group[0].room, [t.name for t in group], sum(t.seconds for t in group), sum(t.wall for t in group), own)

    short, long = {}, []
    for test in tests:
        if test.seconds <= SHORT_S:
            short.setdefault(test.room, []).append(test)
        else:
            long.append(batch_of([test], test.room == own_room and bool(STEPPED.search(test.name))))
    found = []
    for room in sorted(short, key=lambda r: (r != own_room, sum(t.seconds for t in short[r]))):
        group = []
        for test in sorted(short[room], key=lambda t: t.seconds):
            if group and sum(t.seconds for t in group) + test.seconds > TOGETHER_S:
                found.append(batch_of(group, room == own_room))
                group = []
            group.append(test)
        found.append(batch_of(group, room == own_room))

    def turn(batch):
        own_long = batch.room == own_room and (batch.always or batch.seconds <= TOGETHER_S)
        return not own_long, batch.always, batch.seconds

    long.sort(key=turn)
    own = [b for b in found if b.room == own_room] + [b for b in long if not turn(b)[0]]
    return own + [b for b in found if b.room != own_room] + [b for b in long if turn(b)[0]]


def affordable(found, budget_s):
    """Those of the batches that are asked: the first, all that always are, and of the others what the budget is enough for."""
    spent = 0.0
    for i, batch in enumerate(found):
        if not batch.always:
            if i > 0 and spent + batch.seconds > budget_s:
                continue
            spent += batch.seconds
        yield batch


def room_of(path):
    elsewhere = [room for begin, room in TESTED_BY.items() if path.startswith(begin)]
    return elsewhere[0] if elsewhere else path.split("/")[1] if path.startswith("src/") else "ports"


def try_mutant(number, path, tests_by_number, programs, budget_s):
    """(verdict, by which test)"""
    tests = tests_by_number.get(number, [])
    if not tests:
        return "unreached", "no short test comes by"
    passed = 0
    for batch in affordable(batches(tests, room_of(path)), budget_s):
        verdict, name, _ = run_tests(programs[batch.room], batch.names, {"EXCLAVE_MUTANT": str(number)},
                                     LEAST_TIMEOUT_S + 8 * max(batch.wall, batch.seconds))
        if verdict != "passed":
            return ("timeout" if verdict == "hung" else "killed"), f"{batch.room}.{name}"
        passed += len(batch.names)
    return "survived", f"passes {passed} of {len(tests)} tests"


def matches(path, patterns):
    return not patterns or any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def choose(sources, uncompilable, equivalent, patterns, sample, seed):
    """[(number, mutant)] to try, in the order of the sources or of the sample."""
    chosen = []
    for number, path, _, mutants in sources:
        if not matches(path, patterns):
            continue
        chosen += [(number * cut.PER_FILE + i, m) for i, m in enumerate(mutants)
                   if not m.same and m.key() not in uncompilable and m.key() not in equivalent]
    if sample is not None and sample < len(chosen):
        chosen = random.Random(seed).sample(chosen, sample)
    return chosen


def of_some_rooms(sources, rooms, seed):
    """The sources of so many rooms, the ones with more mutants likelier."""
    weights = {}
    for _, path, _, mutants in sources:
        weights[room_of(path)] = weights.get(room_of(path), 0) + len(mutants)
    picked, chance = [], random.Random(seed)
    while any(weights.values()) and len(picked) < rooms:
        picked += chance.choices(list(weights), list(weights.values()))
        del weights[picked[-1]]
    return [source for source in sources if room_of(source[1]) in picked]


def seed_of_commit():
    """The same for the same commit; where there is none, any."""
    known, said = run(["git", "-C", str(ROOT), "rev-parse", "HEAD"])
    return int(said[:8], 16) if known else random.randrange(1 << 31)


def report_text(sources, uncompilable, equivalent, results, seconds, header):
    """The report: counts by file, then every survivor."""
    lines = [header, "", f"{'file':42} {'mutants':>8} {'tried':>6} {'killed':>7} {'timeout':>8} {'survived':>9} "
                         f"{'equivalent':>11} {'uncompiled':>11}"]
    totals = [0] * 7
    for number, path, _, mutants in sources:
        ours = [results[n] for n in range(number * cut.PER_FILE, number * cut.PER_FILE + len(mutants)) if n in results]
        if not ours:
            continue
        row = [sum(not m.same for m in mutants), len(ours), sum(v == "killed" for v, _ in ours), sum(v == "timeout" for v, _ in ours),
               sum(v in ("survived", "unreached") for v, _ in ours), sum(m.key() in equivalent for m in mutants),
               sum(m.key() in uncompilable for m in mutants)]
        totals = [a + b for a, b in zip(totals, row)]
        lines.append("{:42} {:8} {:6} {:7} {:8} {:9} {:11} {:11}".format(path, *row))
    lines.append("{:42} {:8} {:6} {:7} {:8} {:9} {:11} {:11}".format("all of these", *totals))
    lines += ["", f"{seconds:.0f} s", "", "survivors:"]
    for number, path, _, mutants in sources:
        for i, mutant in enumerate(mutants):
            verdict, why = results.get(number * cut.PER_FILE + i, ("", ""))
            if verdict in ("survived", "unreached"):
                lines.append(f"{path}:{mutant.line}: {mutant.change} ({why})\n    {mutant.key()}")
    return "\n".join(lines) + "\n", totals


STATEMENTS = '''
int f(int a) {
  nonce[0] = domain;
  (void)::fsync(folder);
  add([&] { wipe(a); });
  const int b = g(a);
  x.y->z = a == b;
  std::copy(a.begin(), a.end(), b);
  if (a == b) return 2;
  if (owner != me) {
    fail(path, "no");
  }
  return h(a);
}
'''


def self_test():
    """A made-up source: every check must be found, and the rewritten text must hold each change."""
    text = '''#include <x>  // if (a) return 1;
inline bool whole(int a, int b) { return a != b && a < 4; }
int f(int a, int* p) {
  constexpr int kBound = 4 - 1;
  static_assert(kBound == 3 && kBound < 4);
  if (a == 0) return -kEINVAL;  // zero
  if (const int bad = check(a); bad != 0 || p == nullptr) return bad;
  EXCLAVE_CHECK(p != nullptr);
  EXCLAVE_DCHECK(a > 3);
  const std::size_t last = a - 1;
  if (state->compare_exchange_strong(expected, State::kNew, std::memory_order_acq_rel)) return 0;
  if (int* q = g()) return 2;
  while (a <= last) ++a;
  const int least = a < p[1] ? a : p[1];
  const int other = (a < b ? a : c);
  const int most = select(a > b, a, b) + select(a < b, a, c);
  return use("a == b && c");
}
bool X::validate() const noexcept {
  if (a == 0) return false;
}
'''
    found = [(m.line, m.kind, m.change) for m in cut.mutants_of("src/a/b.cpp", text) if not m.same]
    expected = [
        (2, "term", "without `a != b`"), (2, "term", "without `a < 4`"),
        (2, "compare", "!= to == in `a != b && a < 4`"), (2, "compare", "< to <= in `a != b && a < 4`"),
        (6, "guard", "never"), (6, "compare", "== to != in `a == 0`"),
        (7, "guard", "never"), (7, "term", "without `bad != 0`"), (7, "term", "without `p == nullptr`"),
        (7, "compare", "!= to == in `bad != 0 || p == nullptr`"), (7, "compare", "== to != in `bad != 0 || p == nullptr`"),
        (8, "check", "not checked"), (8, "compare", "!= to == in `p != nullptr`"),
        (10, "bound", "1 to 0 in `a - 1`"),
        (11, "guard", "never"), (11, "state", "state not compared"),
        (13, "compare", "<= to < in `a <= last`"),
        (15, "compare", "< to <= in `(a < b ? a : c)`"),
        (16, "compare", "< to <= in `a > b, a, b) + select(a < b, a, c)`"),
    ]
    wrong = [f"not found: {e}" for e in expected if e not in found] + [f"found: {f}" for f in found if f not in expected]
    left_out = [(m.line, m.unit) for m in cut.mutants_of("tools/b.cpp", STATEMENTS, True) if m.kind == "statement"]
    if left_out != [(3, "nonce[0] = domain"), (4, "(void)::fsync(folder)"), (5, "wipe(a)"), (5, "add([&] { wipe(a); })"),
                    (7, "x.y->z = a == b"), (8, "std::copy(a.begin(), a.end(), b)")]:
        wrong.append(f"statements: {left_out}")
    if ("owner != me", "never") not in [(m.unit, m.change) for m in cut.mutants_of("tools/b.cpp", STATEMENTS, True)]:
        wrong.append("a check that ends in a failure is not found")
    new = cut.rewritten(STATEMENTS, list(enumerate(cut.mutants_of("tools/b.cpp", STATEMENTS, True))), 0)
    if "if (exclave_mutates(" not in new or "{} else nonce[0] = domain;" not in new or new.count("\n") != STATEMENTS.count("\n"):
        wrong.append(f"statements are not left out: {new}")
    mutants = list(enumerate(cut.mutants_of("src/a/b.cpp", text)))
    new = cut.rewritten(text, mutants, 0)
    if new.count("\n") != text.count("\n"):
        wrong.append("lines moved")
    for index, _ in mutants:
        if f"exclave_mutates({index})" not in new:
            wrong.append(f"mutant {index} is not in the text")
    if "(state->store(State::kNew, std::memory_order_relaxed), true)" not in new:
        wrong.append("the stored state is wrong")
    order = batches([Test(room, name, seconds, seconds, []) for room, name, seconds in (
        ("heap", "A.slow", 2.0), ("region", "B.slow", 3.0), ("region", "B.quick", 0.1), ("heap", "A.quick", 0.01),
        ("region", "StoppedC.each", 1.0), ("region", "StoppedC.all", 30.0), ("heap", "StoppedD.each", 1.5),
        ("region", "B.slowest", 5.0))], "region")
    if [(b.names, b.always) for b in order] != [
            (["B.quick"], True), (["B.slow"], False), (["StoppedC.each"], True), (["StoppedC.all"], True), (["A.quick"], False),
            (["StoppedD.each"], False), (["A.slow"], False), (["B.slowest"], False)]:
        wrong.append(f"wrong order of tests: {order}")
    if [b.names[0] for b in affordable(order, 3.1)] != ["B.quick", "B.slow", "StoppedC.each", "StoppedC.all", "A.quick"]:
        wrong.append(f"not what the budget is enough for: {list(affordable(order, 3.1))}")
    with tempfile.TemporaryDirectory() as folder:
        listed = pathlib.Path(folder) / "equivalent.txt"
        for bad in ("a | b | c\n", "  a reason alone\n", "a | b | c\n  why\na | b | c\n  why\n"):
            listed.write_text(bad)
            try:
                read_equivalent(listed)
                wrong.append(f"accepted as a list: {bad!r}")
            except Fault:
                pass
    print("\n".join(wrong) if wrong else f"self-test: {len(expected)} mutants found, and no other")
    return not wrong


def try_all(chosen, programs, tests, options, say):
    """{number: (verdict, by which test)}"""
    tests_by_number = {}
    for test in tests:
        for place in test.places:
            tests_by_number.setdefault(place, []).append(test)
    results, lock = {}, threading.Lock()

    def one(item):
        number, mutant = item
        verdict, why = try_mutant(number, mutant.path, tests_by_number, programs, options.budget)
        with lock:
            results[number] = (verdict, why)
            if verdict in ("survived", "unreached"):
                say(f"survived: {mutant.path}:{mutant.line}: {mutant.change} ({why})")
            if len(results) % 50 == 0:
                say(f"{len(results)} of {len(chosen)}")

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, chosen))
    return results


def whole(sources, equivalent, build, seed, options, say):
    """Compiles all mutants, of the library or of the programs, and tries those that were asked for: (left out, chosen, results)."""
    numbers = len(sources) * cut.PER_FILE
    asked = [source for source in sources if matches(source[1], options.files)]
    if options.files and len({are_programs([source]) for source in asked}) == 2:
        raise Fault("--files: names sources of the library and of programs; they are tried in runs of their own")
    if are_programs(asked):
        sources, build = asked, build / "programs"
        build.mkdir(exist_ok=True)
    else:
        sources = [source for source in sources if not are_programs([source])]
    say(f"compiling {sum(not m.same for s in sources for m in s[3])} mutants")
    uncompilable, programs = compile_all(sources, build, options.jobs)
    tests = baseline(build, programs, numbers, options.jobs, options.budget, say)
    chosen = choose(sources, uncompilable, equivalent, options.files, options.sample, seed)
    if options.again:
        before = json.loads((build / "results.json").read_text()) if (build / "results.json").exists() else {}
        chosen = [(n, m) for n, m in chosen if before.get(m.key(), [""])[0] in ("survived", "unreached")]
    say(f"trying {len(chosen)} mutants by {len(tests)} tests")
    return uncompilable, chosen, try_all(chosen, programs, tests, options, say)


def beside(sources, equivalent, build, seed, options, say):
    """A sample: its own rooms' quick tests first, and what they do not kill by all others. The answer as above."""
    objects = pathlib.Path(options.beside).resolve()
    numbers = len(sources) * cut.PER_FILE
    compiled_alone = [source for source in sources if source[1].endswith(".cpp") and matches(source[1], options.files)
                      and not are_programs([source])]
    chosen = choose(of_some_rooms(compiled_alone, options.rooms, seed), [], equivalent, [], options.sample, seed)
    if not chosen:
        raise Fault("--beside: no mutant in a .cpp file of the library there")
    say(f"compiling {len(chosen)} mutants, chosen by SEED={seed}")
    uncompilable, new = compile_beside(objects, sources, chosen, build, options.jobs)
    chosen = [(n, m) for n, m in chosen if m.key() not in uncompilable]
    own = sorted({room_of(m.path) for _, m in chosen})
    programs = link_beside(objects, new, own, build, options.jobs)
    tests = baseline(build, programs, numbers, options.jobs, options.budget, say, quick=True)
    say(f"trying {len(chosen)} mutants by {len(tests)} quick tests of {' and '.join(own)}")
    results = try_all(chosen, programs, tests, options, say)
    left = [(n, m) for n, m in chosen if results[n][0] in ("survived", "unreached")]
    if left:
        others = [room for room in ROOMS if room not in own and list((ROOT / "tests" / room).glob("*_test.cpp"))]
        programs |= link_beside(objects, new, others, build, options.jobs)
        tests = baseline(build, programs, numbers, options.jobs, options.budget, say)
        say(f"trying {len(left)} of them by all {len(tests)} tests")
        results |= try_all(left, programs, tests, options, say)
    return uncompilable, chosen, results


def rotten_names(sources, equivalent):
    """Prints and returns what is listed as equivalent and is no mutant of these sources."""
    known = {mutant.key() for source in sources for mutant in source[3]}
    rotten = [name for name in equivalent if name not in known]
    for name in rotten:
        print(f"equivalent.txt: no such mutant any more: {name}")
    return rotten


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], usage=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="*", default=[])
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=lambda text: text if text == "commit" else int(text))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget", type=float, default=6.0)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--beside")
    parser.add_argument("--rooms", type=int)
    parser.add_argument("--build")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--check-list", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return 0 if self_test() else 1
    if options.check_list:
        return 1 if rotten_names(all_mutants(ROOT), read_equivalent(HERE / "equivalent.txt")) else 0
    if options.sample is not None and options.sample < 1:
        raise Fault("--sample: a number of mutants, 1 or more")
    if options.seed is not None and options.sample is None:
        raise Fault("--seed: only with --sample")
    if not options.budget > 0:
        raise Fault("--budget: seconds, more than 0")
    if options.jobs < 1:
        raise Fault("--jobs: 1 or more")
    if options.beside is not None and (options.sample is None or options.again):
        raise Fault("--beside: with --sample, without --again")
    if options.rooms is not None and (options.beside is None or options.rooms < 1):
        raise Fault("--rooms: 1 or more, with --beside")
    options.rooms = options.rooms or len(ROOMS)
    sources = all_mutants(ROOT)
    for pattern in options.files:
        if not any(matches(path, [pattern]) for _, path, _, _ in sources):
            raise Fault(f"no source of {' or '.join(MUTATED)} matches {pattern}")
    equivalent = read_equivalent(HERE / "equivalent.txt")
    rotten = rotten_names(sources, equivalent)
    seed = seed_of_commit() if options.seed == "commit" else options.seed if options.seed is not None else random.randrange(1 << 31)

    build = pathlib.Path(options.build or ROOT / "build" / ("mutants" if options.beside is None else "mutants-sample")).resolve()
    build.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    def say(text):
        print(f"[{time.monotonic() - start:5.0f} s] {text}", flush=True)

    way = whole if options.beside is None else beside
    uncompilable, chosen, results = way(sources, equivalent, build, seed, options, say)
    header = f"{len(chosen)} mutants of {' '.join(options.files) or 'everything'}"
    if options.sample is not None:
        header += f", a sample with SEED={seed}"
    text, totals = report_text(sources, uncompilable, equivalent, results, time.monotonic() - start, header)
    (build / "report.txt").write_text(text)
    last = build / "results.json"  # what was found of each mutant when it was last tried
    remembered = json.loads(last.read_text()) if last.exists() else {}
    remembered |= {m.key(): results[n] for n, m in chosen}
    last.write_text(json.dumps(remembered, indent=1))
    say(f"{totals[1]} tried: {totals[2]} killed, {totals[3]} timed out, {totals[4]} survived; "
        f"{len(equivalent)} are listed as equivalent, {len(uncompilable)} do not compile; see {build / 'report.txt'}")
    return 1 if totals[4] or rotten else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Fault as fault:
        print(f"mutants: {fault}", file=sys.stderr)
        sys.exit(2)
