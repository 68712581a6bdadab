"""What is measured, and how often: workloads by name. docs/performance.md tells more."""

# One figure for each allocator: CPU ns for one allocation and one free.
PAIRS = {
    "a": "one block of 64 B, over and over",
    "b": "10,000 blocks of 16-1024 B, freed in random order",
    "c3": "1e3 live blocks of 16 B-64 KiB, one replaced",
    "c4": "1e4 live blocks of 16 B-64 KiB, one replaced",
    "c5": "1e5 live blocks of 16 B-64 KiB, one replaced",
    "c6": "1e6 live blocks of 16 B-64 KiB, one replaced",
    "c3u": "c3, blocks not touched",
    "c4u": "c4, blocks not touched",
    "c5u": "c5, blocks not touched",
    "d": "64 live blocks of 64 KiB-4 MiB, one replaced",
    "e": "two threads, each doing b",
    "f": "one thread allocates, another frees",
    "g0": "512 runs of 4 KiB, got, put in random order",
    "g3": "512 runs of 32 KiB, got, put in random order",
    "g9": "16 runs of 2 MiB, got, put in random order",
}
# The same on memory that somebody else brings: OURS[1] beside those who can serve from a given range.
GIVEN = {
    "pa": "a, in a pool",
    "pb": "b, in a pool",
    "pc3": "c3, in a pool",
    "pc4": "c4, in a pool",
    "pc5": "c5, in a pool of 2 GiB",
    "pd": "d, in a pool",
    "pe": "e, in one pool",
    "pf": "f, in a pool",
    "pg0": "g0, in a pool",
    "pg3": "g3, in a pool",
    "pr": "a pool comes, 16 blocks, 8 freed, it is revoked",
    "ps4": "four threads, each doing b in one pool",
    "ps8": "eight threads, each doing b in one pool",
}
OTHERS = {
    "h": "tail latency of single calls, in c4",
    "i": "attach and detach by number of regions",
    "k": "memory calls beside the bare system calls",
    "l": "memory besides the callers' bytes",
    "m": "the enclave's own memory by number of areas",
    "query": "Allocator::query by number of regions",
    "copy": "copies beside memcpy",
}
ALL = [*PAIRS, *GIVEN, *OTHERS]
GROUPS = [PAIRS, GIVEN]
ONCE = ["i", "k", "m", "query", "copy"]  # no allocator beside another one; nor in the books of l
QUICK = ["a", "b", "c3", "c5", "d", "e", "f", "g0", "pb", "pe", "h", "i", "k", "l", "m", "query", "copy"]

# Some are slow or steady: they stop early, and the rounds left go to the others.
ROUNDS_AT_MOST = {"c6": 1, "c3u": 4, "c4u": 4, "c5u": 4, "g0": 5, "g3": 5, "g9": 5, "h": 5, "i": 3, "k": 3, "l": 1,
                  "m": 3, "query": 5, "copy": 3, **dict.fromkeys(GIVEN, 5)}
QUICK_ROUNDS_AT_MOST = {"h": 1, "i": 1, "k": 1, "l": 1, "m": 1, "query": 1, "copy": 1, "pb": 1, "pe": 1}

# Each contender takes its turns with small pages, then with huge ones. They are never compared with each other.
PAGES = {"small": "small pages", "huge": "huge pages"}
C6_NEEDS_BYTES = 12 << 30
SEQUENCES = ["c3", "c4", "c5"]       # whose memory l looks at
BOOK_BLOCKS = [64, 4096, 16384, 65536]
AREA_CALLS = {  # what m times, by the name of its counter
    "map": "map a page, highest place",
    "unmap": "unmap it",
    "map_far": "map 13 pages, one place fits",
    "map_fixed": "map a page, fixed",
    "unmap_fixed": "unmap it",
    "split": "protect, splits",
    "merge": "protect, merges",
    "visit": "look up",
    "break_up": "brk, a page up",
    "break_down": "brk, a page down",
    "calls_mmap": "MemoryCalls: mmap, fixed",
    "calls_munmap": "MemoryCalls: munmap",
    "calls_mprotect": "MemoryCalls: mprotect, splits",
    "storm_split": "storm: a page split off",
    "storm_merge": "storm: an area joined",
    "one_thread": "mixed, one thread",
    "two_threads": "mixed, each of two threads",
    "one_thread_cpu": "one thread: CPU time / calls",
    "two_threads_cpu": "two threads: CPU time / calls",
}


def ours(workload):
    """Whose time the ratios have above the line."""
    return "exclave-pool" if workload in GIVEN else "exclave"


def rounds_at_most(workload, quick):
    return (QUICK_ROUNDS_AT_MOST if quick else ROUNDS_AT_MOST).get(workload, 1 << 30)
