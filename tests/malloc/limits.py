#!/usr/bin/env python3
"""Under a limit to memory, libexclave_malloc.so must serve what libc's malloc serves.

  limits.py LIBRARY

Python runs under each limit, plain and with LIBRARY preloaded, and takes memory in pieces of a mebibyte until there is no more.
"""
import os
import resource
import subprocess
import sys

OVERHEAD_MIB = 8  # docs/malloc.md
LIMITS_KIB = [60_000, 80_000, 150_000, 300_000, 1_000_000, 4_000_000, 8_600_000]

TAKE = r"""
keep = []
try:
    while len(keep) < 300:
        keep.append(bytearray((1 << 20) - 4096))
except MemoryError:
    pass
print(len(keep))
"""
LIMIT_FROM_INSIDE = "import resource; resource.setrlimit(resource.{}, (200_000 << 10, 200_000 << 10))\n"
LOCK_ALL = r"""
import ctypes
if ctypes.CDLL(None).mlockall(1) != 0:
    print("not allowed")
else:
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmLck")))
"""


def run(program, library, limit=None):
    """What the program prints, or how it ended."""
    env = dict(os.environ, PYTHONMALLOC="malloc")
    if library is not None:
        env["LD_PRELOAD"] = library
    done = subprocess.run(["python3", "-S", "-c", program], env=env, capture_output=True, text=True, timeout=60,
                          preexec_fn=limit and (lambda: resource.setrlimit(limit[0], (limit[1] << 10, limit[1] << 10))))
    return done.stdout.strip() if done.returncode == 0 else f"status {done.returncode}: {done.stderr[-300:]}"


def compare(what, plain, preloaded, good):
    good = plain.isdigit() and preloaded.isdigit() and good(int(plain), int(preloaded))
    print(f"{'ok     ' if good else 'FAILED '} {what}: {plain} MiB plain, {preloaded} MiB preloaded", flush=True)
    return good


def main():
    library = os.path.abspath(sys.argv[1])
    results = []

    def serves(plain, preloaded):
        return preloaded + OVERHEAD_MIB >= plain

    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        for kib in LIMITS_KIB:
            limit = (getattr(resource, name), kib)
            results.append(compare(f"{name} {kib} KiB", run(TAKE, None, limit), run(TAKE, library, limit), serves))
        program = LIMIT_FROM_INSIDE.format(name) + TAKE
        results.append(compare(f"{name} from inside", run(program, None), run(program, library), serves))
    plain, preloaded = run(LOCK_ALL, None), run(LOCK_ALL, library)
    if plain != "not allowed":
        results.append(compare("mlockall", plain, preloaded, lambda a, b: b <= a + 32))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
