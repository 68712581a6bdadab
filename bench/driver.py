"""Who takes turns, how the benchmark program is run, and on which machine."""
import ctypes
import datetime
import glob
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import plan

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Debian's packages: name, the library by the name that the loader knows or by its path, package.
PEERS = [
    ("mimalloc", "libmimalloc.so.2", "libmimalloc2.0"),
    ("jemalloc", "libjemalloc.so.2", "libjemalloc2"),
    ("tcmalloc", "libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    ("scudo", "/usr/lib/llvm-14/lib/clang/*/lib/linux/libclang_rt.scudo_standalone-x86_64.so", "libclang-rt-14-dev"),
]
# Those who serve from a given range: name, which is the policy, too; the library, which the program opens, or preloaded where it
# has to be; package.
GIVEN_PEERS = [
    ("memkind", "libmemkind.so.0", "libmemkind0", False),
    ("jemalloc-arena", "libjemalloc.so.2", "libjemalloc2", True),
    ("mimalloc-arena", "libmimalloc.so.2", "libmimalloc2.0", True),
    ("dpdk", "librte_eal.so.23", "librte-eal23", False),
    ("boost", None, "libboost-dev", False),
]
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
# What gives everybody huge pages, beside the library that Program preloads.
HUGE_PAGES_ENV = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "EXCLAVE_MALLOC_HUGE_PAGES": "1"}
QUICK_GIVEN = ("exclave-pool", "memkind", "mimalloc-arena")


class Contender:
    """Someone who takes turns: a policy of the program, and the environment it runs in."""

    def __init__(self, name, policy, env=None, only=None, malloc=None, peer=False):
        self.name, self.policy, self.env = name, policy, env or {}
        self.only, self.malloc, self.peer = only, malloc, peer
        self.out_of = set()  # (workload, pages) that it could not do

    @property
    def preloaded(self):
        return "LD_PRELOAD" in self.env

    def takes(self, workload, pages="small"):
        if (workload, pages) in self.out_of or workload == "l" and self.policy == "null":
            return False
        if self.only is not None:
            return workload in self.only
        return workload not in plan.GIVEN or self.policy in ("null", "exclave") and workload != "pr"

    @staticmethod
    def of_library(name, path, peer=True):
        return Contender(name, "malloc", {"LD_PRELOAD": str(path)}, malloc=str(path), peer=peer)


class Failure(Exception):
    """A turn that did not work out."""


def no_huge_pages():
    """Why no process here can have huge pages; None if one can."""
    setting = read_first(HUGE_PAGES)
    if setting == "unknown":
        return "the kernel has none"
    return f"{HUGE_PAGES} is never" if "[never]" in setting else None


def allow_huge_pages(allowed):
    """Or forbid them to every process that this one starts from now on, whatever it asks for."""
    set_thp_disable = 41
    done = ctypes.CDLL(None, use_errno=True).prctl(set_thp_disable, *map(ctypes.c_ulong, (not allowed, 0, 0, 0)))
    if done != 0 and no_huge_pages() is None:
        raise Failure(f"the kernel does not switch huge pages off: PR_SET_THP_DISABLE: {os.strerror(ctypes.get_errno())}")


class Program:
    """The benchmark program."""

    def __init__(self, path):
        self.path = path
        self.advisor = path.parent.resolve() / "libexclave_huge_pages.so"

    def environment(self, contender, pages):
        env = dict(contender.env) if contender else {}
        if pages == "huge":
            env |= HUGE_PAGES_ENV | {"LD_PRELOAD": f"{self.advisor} {env.get('LD_PRELOAD', '')}".strip()}
        return {**os.environ, **env}

    def run(self, pattern, min_time, contender=None, pages="small"):
        """The results of the benchmarks that match, as Google Benchmark tells them."""
        allow_huge_pages(pages == "huge")
        done = subprocess.run(
            [str(self.path), f"--benchmark_filter={pattern}", f"--benchmark_min_time={min_time}",
             "--benchmark_format=json"],
            capture_output=True, text=True, env=self.environment(contender, pages))
        if done.returncode != 0 or not done.stdout:
            raise Failure(f"{pattern} failed with {done.returncode}: {done.stderr.strip()[-400:]}")
        told = json.loads(done.stdout)
        used = told["context"].get("malloc_from", "")
        if contender and contender.malloc and not same_library(used, contender.malloc):
            raise Failure(f"should run on {contender.malloc}, but malloc comes from {used}")
        if pages == "small" and any(result.get("huge_bytes") for result in told["benchmarks"]):
            raise Failure(f"{pattern} held huge pages, though they are switched off")
        return told["benchmarks"]

    def one(self, name, min_time, contender, pages="small"):
        """The result of the one benchmark of that name."""
        found = self.run(f"^{name}/{contender.policy}(/|$)", min_time, contender, pages)
        if len(found) != 1:
            raise Failure(f"{name}/{contender.policy} names {len(found)} benchmarks")
        return found[0]

    def why_not(self, contender, benchmark="a/null"):
        """Why this contender cannot run here, in one line; None if it can."""
        try:
            if not self.run(f"^{benchmark}$", 0.001, contender):
                return f"{self.path} was built without it"
        except Failure as failure:
            # The loader says what it does not like, then goes on without.
            probe = subprocess.run(["/bin/true"], capture_output=True, text=True, env={**os.environ, **contender.env})
            said = [line for line in probe.stderr.splitlines() if "cannot be preloaded" in line]
            return (said[0] if said else str(failure)).replace("\n", " ")
        return None


def same_library(used, wanted):
    return pathlib.Path(used).name.startswith(wanted) if "/" not in wanted else os.path.realpath(used) == os.path.realpath(wanted)


def library_path(library):
    """Where a library is: one that the loader knows by this name, or a path with wildcards. None if nowhere."""
    if library.startswith("/"):
        return max(glob.glob(library), default=None)
    try:
        cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    except OSError:
        return None
    for line in cache.splitlines():
        if line.split(" ")[0].strip() == library and " => " in line:
            return line.split(" => ")[1]
    return None


def package_version(package):
    found = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True)
    return found.stdout if found.returncode == 0 else "unknown"


def named_peer(option, given, program, taken):
    """The contender of one --peer or --given-peer. The user asked for it by name, so nothing is skipped."""
    name, _, path = given.partition("=")
    if not name or not path:
        sys.exit(f"bench: {option} {given}: want NAME=PATH of a shared library")
    if name in taken:
        sys.exit(f"bench: {option} {given}: there is a contender of that name already")
    if not pathlib.Path(path).is_file():
        sys.exit(f"bench: {option} {given}: there is no such file")
    path = pathlib.Path(path).resolve()
    if option == "--peer":
        contender, benchmark = Contender.of_library(name, path), "a/null"
    else:
        contender, benchmark = given_contender(name, "given", {"EXCLAVE_BENCH_GIVEN_PEER": str(path)}), "pa/given"
    reason = program.why_not(contender, benchmark)
    if reason:
        sys.exit(f"bench: {option} {given}: {reason}")
    return contender


def given_contender(name, policy, env=None):
    """A peer that serves from a given range; none takes its pool away under live blocks."""
    env = env or {}
    return Contender(name, policy, env, only=[w for w in plan.GIVEN if w != "pr"], malloc=env.get("LD_PRELOAD"), peer=True)


def given_contenders(program, versions):
    """Who serves from a given range: exclave by pool and by device, and the peers that are here."""
    names = ("exclave-pool", "exclave-device", "exclave-device-64")
    everyone = [Contender(name, name, only=[w for w in plan.GIVEN if w != "pr" or name == "exclave-pool"]) for name in names]
    for name, library, package, preloaded in GIVEN_PEERS:
        if library and library_path(library) is None:
            print(f"bench: {name} is not installed (Debian: {package}); skipped")
            continue
        env = {"LD_PRELOAD": library_path(library)} if preloaded else {}
        contender = given_contender(name, name, env)
        reason = program.why_not(contender, f"pa/{name}")
        if reason:
            print(f"bench: {name} cannot serve, skipped: {reason}")
            continue
        everyone.append(contender)
        versions[name] = package_version(package)
    return everyone


def contenders(build_dir, peers=(), given_peers=(), quick=False):
    """Who takes part, and the versions of the peers."""
    program = Program(build_dir / "exclave_bench")
    everyone = [
        Contender("null", "null"),
        Contender("exclave", "exclave"),
        Contender("exclave-store", "exclave-store", only=["c3", "c4", "c5"]),
    ]
    ours = build_dir.resolve().parent / "release" / "libexclave_malloc.so"
    if ours.is_file():
        contender = Contender.of_library("exclave-malloc", ours, peer=False)
        reason = program.why_not(contender)
        if reason:
            print(f"bench: exclave-malloc does not load, skipped: {reason}")
        else:
            everyone.append(contender)
    everyone.append(Contender("glibc", "malloc", malloc="libc.so", peer=True))
    versions = {"glibc": " ".join(platform.libc_ver())}
    for name, library, package in PEERS:
        path = library_path(library)
        if path is None:
            print(f"bench: {name} is not installed (Debian: {package}); skipped")
            continue
        contender = Contender.of_library(name, path)
        reason = program.why_not(contender)
        if reason:
            print(f"bench: {name} does not load, skipped: {reason}")
            continue
        everyone.append(contender)
        versions[name] = package_version(package)
    everyone += [c for c in given_contenders(program, versions) if not quick or c.name in QUICK_GIVEN]
    for option, named in (("--peer", peers), ("--given-peer", given_peers)):
        for given in named:
            everyone.append(named_peer(option, given, program, [c.name for c in everyone]))
            versions[everyone[-1].name] = given.partition("=")[2]
    return everyone, versions


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


def available_bytes():
    told = read_first("/proc/meminfo", "MemAvailable").split()
    return int(told[0]) * 1024 if told[0].isdigit() else 0


def compiler(build_dir):
    """The first line of what the compiler of a build says about itself."""
    for line in read_lines(build_dir / "CMakeCache.txt"):
        if line.startswith("CMAKE_CXX_COMPILER:"):
            try:
                said = subprocess.run([line.split("=", 1)[1], "--version"], capture_output=True, text=True).stdout
            except OSError:
                break
            return said.splitlines()[0] if said else "unknown"
    return "unknown"


def read_lines(path):
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []


def describe_machine(build_dir, versions):
    git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    os_release = read_first("/etc/os-release")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": read_first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": read_first("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "os": os_release.split("=", 1)[-1].strip('"'),
        "huge_pages": read_first(HUGE_PAGES),
        "compiler": compiler(build_dir),
        "exclave": git.stdout.strip() or "unknown",
        "peers": versions,
    }


def write(target, text):
    """Whole or not at all."""
    part = target.with_suffix(".part")
    part.write_text(text)
    part.replace(target)
    print(f"bench: {target}")


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
