#!/usr/bin/env python3
"""What changed since the last commit on which every check was run whole: .ci/whole names it.

  changed.py sources           the sources that clang-tidy has to read again, one a line: those that changed, and for each
                               changed header those that include it first
  changed.py rooms             the folders of src/ in which, or in whose tests, something changed, on one line
  changed.py --self-test

Changes that are not committed count. Everything counts as changed where .ci/whole names no ancestor of HEAD: in a shallow
clone, say.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)
FOLDERS = ("include", "src", "ports", "sim", "loader", "tools")


def git(root, *words):
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else None


def changed(root):
    """The changed paths, or None for everything."""
    try:
        whole = (root / ".ci" / "whole").read_text().split()[0]
    except (OSError, IndexError):
        return None
    if not re.fullmatch("[0-9a-f]{40}", whole) or git(root, "merge-base", "--is-ancestor", whole, "HEAD") is None:
        return None
    since = git(root, "diff", "--name-only", whole)
    new = git(root, "ls-files", "--others", "--exclude-standard")
    return None if since is None or new is None else set(since) | set(new)


def includers(root, files):
    """{header: the files that include it}; an include is matched by the end of the header's path."""
    found = {}
    by_name = {}
    for path in files:
        by_name.setdefault(pathlib.PurePath(path).name, []).append(path)
    for path in files:
        for name in INCLUDE.findall((root / path).read_text()):
            for header in by_name.get(pathlib.PurePath(name).name, []):
                if header.endswith("/" + name):
                    found.setdefault(header, set()).add(path)
    return found


def sources(root):
    files = [path for path in git(root, "ls-files", "--cached", "--others", "--exclude-standard", "--", *FOLDERS)
             if path.endswith((".cpp", ".hpp", ".h")) and (root / path).is_file()]
    paths = changed(root)
    if paths is None or ".clang-tidy" in paths:
        return sorted(path for path in files if path.endswith(".cpp"))
    by = includers(root, files)
    result = set()
    for path in paths:
        # A header is read with the sources that include it; where only headers do, with theirs.
        ring, seen = {path} & set(files), set()
        while ring and not any(name.endswith(".cpp") for name in ring):
            seen |= ring
            ring = set().union(*(by.get(name, set()) for name in ring)) - seen
        result |= {name for name in ring if name.endswith(".cpp")}
    return sorted(result)


def rooms(root):
    paths = changed(root)
    every = sorted({path.split("/")[1] for path in git(root, "ls-files", "--cached", "--others", "--exclude-standard", "--", "src")
                    if path.count("/") > 1})
    if paths is None:
        return every
    return [room for room in every if any(path.startswith((f"src/{room}/", f"tests/{room}/")) for path in paths)]


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        texts = {"src/a/deep.hpp": "", "src/a/top.hpp": '#include "a/deep.hpp"\n', "src/a/one.cpp": '#include "a/top.hpp"\n',
                 "src/b/two.cpp": '#include "a/top.hpp"\n', "src/b/three.cpp": "#include <atomic>\n",
                 "src/b/deep.hpp": "", "docs/x.md": ""}
        for name, text in texts.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (root / ".ci").mkdir()
        git(root, "init", "-q")

        def commit():
            git(root, "add", "-A")
            git(root, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x")
            return git(root, "rev-parse", "HEAD")[0]

        first = commit()
        every = ["src/a/one.cpp", "src/b/three.cpp", "src/b/two.cpp"]
        assert sources(root) == every and rooms(root) == ["a", "b"]
        for text in ("", "not a commit\n", "0" * 40 + "\n"):
            (root / ".ci" / "whole").write_text(text)
            assert sources(root) == every and rooms(root) == ["a", "b"], text
        (root / ".ci" / "whole").write_text(f"{first} the day\n")
        (root / "docs" / "x.md").write_text("y")
        assert sources(root) == [] and rooms(root) == []
        (root / "src/a/deep.hpp").write_text("// y\n")
        commit()
        assert sources(root) == ["src/a/one.cpp", "src/b/two.cpp"], sources(root)
        assert rooms(root) == ["a"]
        (root / "tests/b").mkdir(parents=True)
        (root / "tests/b/b_test.cpp").write_text("")
        assert rooms(root) == ["a", "b"]
        (root / "src/b/new.cpp").write_text("")
        assert sources(root) == ["src/a/one.cpp", "src/b/new.cpp", "src/b/two.cpp"]
        (root / "src/a/one.cpp").unlink()
        assert sources(root) == ["src/b/new.cpp", "src/b/two.cpp"]
        (root / ".clang-tidy").write_text("x")
        assert sources(root) == ["src/b/new.cpp", "src/b/three.cpp", "src/b/two.cpp"]
    print("changed.py: self-test passed")


def main():
    words = sys.argv[1:]
    if words == ["--self-test"]:
        return self_test()
    if words == ["sources"]:
        print("".join(name + "\n" for name in sources(ROOT)), end="")
        return 0
    if words == ["rooms"]:
        print(*rooms(ROOT))
        return 0
    print(__doc__.strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
