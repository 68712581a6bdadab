#!/usr/bin/env python3
"""Checks the direction of includes between rooms.

  check_includes.py ROOT         lists every include that a room may not have
  check_includes.py --self-test  shows that bad ones are caught
"""
import pathlib
import re
import sys
import tempfile

# A room of src/ includes only itself and rooms before it.
ROOMS = ["base", "port", "access", "region", "page", "slab", "heap", "memcall", "capi"]

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
SOURCES = {".hpp", ".cpp", ".h", ".c", ".inc"}


def allowed_prefixes(path):
    """What the file may include from this tree, as include prefixes; None where anything goes."""
    parts = path.parts
    if parts[0] == "include":
        return {"exclave/"}
    if parts[0] == "src":
        if len(parts) < 3 or parts[1] not in ROOMS:
            raise ValueError(f"{path}: not in a room (rooms: {', '.join(ROOMS)})")
        return {"exclave/"} | {f"{room}/" for room in ROOMS[: ROOMS.index(parts[1]) + 1]}
    if parts[0] == "ports":
        return {"exclave/", "port/", "kernel/", f"{parts[1]}/"}
    if parts[0] == "sim":
        return {"exclave/", "sim/"} | {f"{room}/" for room in ROOMS}
    if parts[0] == "tools":
        # Of the loader only what both sides of `exclave exec` must agree on.
        return {"exclave/", "port/", "tools/", "sim/", "loader/layout.hpp", "loader/options.hpp"}
    if parts[0] == "loader":
        return {"exclave/", "port/", "kernel/", "loader/"}
    if parts[0] == "examples":
        return {"exclave/"}
    return None


def is_ours(root, path, include, quoted):
    """Does the include name a file of this tree, rather than a system header?"""
    bases = [root / "include", root / "src", root / "ports", root, root / "tests"]
    if quoted:
        bases.append((root / path).parent)
    return quoted or any((base / include).is_file() for base in bases)


def check(root):
    """All faults of the tree, one line each."""
    faults = []
    for top in ["include", "src", "ports", "sim", "loader", "tools", "examples"]:
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in SOURCES or not file.is_file():
                continue
            path = file.relative_to(root)
            try:
                prefixes = allowed_prefixes(path)
            except ValueError as error:
                faults.append(str(error))
                continue
            for number, line in enumerate(file.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                include, quoted = match[1] or match[2], match[1] is not None
                where = f"{path}:{number}"
                if ".." in pathlib.PurePosixPath(include).parts:
                    faults.append(f'{where}: "{include}": write the path from the room\'s parent')
                elif not is_ours(root, path, include, quoted):
                    continue
                elif (file.parent / include).is_file() and "/" not in include:
                    continue  # a neighbour in the same folder
                elif not any(include.startswith(prefix) for prefix in prefixes):
                    allowed = " ".join(sorted(prefixes))
                    faults.append(f'{where}: "{include}": {path.parts[0]} may include only {allowed} here')
    return faults


def self_test():
    """Every bad file must be named, no good one."""
    good = {
        "include/exclave/a.hpp": "#include <stddef.h>\n#include <exclave/b.hpp>\n",
        "include/exclave/b.hpp": '#include "exclave/a.hpp"\n#include "a.hpp"\n',
        "src/base/result.hpp": "#include <atomic>\n#include EXCLAVE_THREAD_SLOT_HEADER\n",
        "src/page/run_map.cpp": '#include "page/run_map.hpp"\n#include "base/result.hpp"\n#include <exclave/a.hpp>\n',
        "src/page/run_map.hpp": "// no #include \"slab/slab.hpp\" here\n",
        "src/slab/slab.hpp": "",
        "src/port/port.hpp": "",
        "ports/process/p.cpp": '#include <sys/mman.h>\n#include "process/p.hpp"\n#include "port/port.hpp"\n',
        "ports/process/p.hpp": "",
        "sim/host.cpp": '#include "slab/slab.hpp"\n',
        "sim/host.hpp": "",
        "tools/main.cpp": '#include <CLI/CLI.hpp>\n#include "sim/host.hpp"\n#include "loader/layout.hpp"\n',
        "loader/layout.hpp": '#include <cstdint>\n',
        "loader/start.cpp": '#include "loader/layout.hpp"\n#include "port/port.hpp"\n#include "exclave/a.hpp"\n',
    }
    bad = {
        "include/exclave/leak.hpp": '#include "base/result.hpp"\n',
        "include/exclave/leak_angle.hpp": "#include <base/result.hpp>\n",
        "src/base/upward.hpp": '#include "page/run_map.hpp"\n',
        "src/page/upward.cpp": '#  include "slab/slab.hpp"\n',
        "src/page/dots.cpp": '#include "../base/result.hpp"\n',
        "src/page/port_itself.cpp": '#include "process/p.hpp"\n',
        "src/cellar/x.cpp": "",
        "ports/process/deep.cpp": '#include "slab/slab.hpp"\n',
        "tools/deep.cpp": '#include "page/run_map.hpp"\n',
        "tools/into_loader.cpp": '#include "loader/trap.hpp"\n',
        "loader/deep.cpp": '#include "slab/slab.hpp"\n',
        "loader/upward.cpp": '#include "sim/host.hpp"\n',
        "examples/deep.c": '#include "port/port.hpp"\n',
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in (good | bad).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        named = {fault.split(":")[0] for fault in check(root)}
    missed, wronged = set(bad) - named, named - set(bad)
    for name in sorted(missed):
        print(f"self-test: {name} should be refused")
    for name in sorted(wronged):
        print(f"self-test: {name} should be accepted")
    print(f"self-test: {len(bad)} bad and {len(good)} good files, {len(missed) + len(wronged)} judged wrongly")
    return not missed and not wronged


def main():
    if sys.argv[1:] == ["--self-test"]:
        return 0 if self_test() else 1
    if len(sys.argv) != 2 or not (pathlib.Path(sys.argv[1]) / "src").is_dir():
        print(__doc__.strip(), file=sys.stderr)
        return 2
    faults = check(pathlib.Path(sys.argv[1]).resolve())
    print("\n".join(faults) if faults else "includes point the right way")
    return 1 if faults else 0


sys.exit(main())
