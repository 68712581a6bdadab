#!/bin/bash
# clang-tidy over the library, the ports, the hostile host, the loader and the command line, several files at a time.
#   tidy.sh BUILD_DIR [FILE-REGEX]     BUILD_DIR holds compile_commands.json (use dev-clang)
#   tidy.sh BUILD_DIR --changed        only what changed since every check was run whole (changed.py)
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1 regex=${2:-.} only=''
if [[ "$regex" == --changed ]]; then
  regex=. only=$(scripts/changed.py sources)
fi
tidy=${CLANG_TIDY:-clang-tidy-14}
mapfile -t sources < <(python3 - "$build" "$regex" "${2:-}" "$only" <<'PYTHON'
import json, os, re, sys
files = {os.path.relpath(entry["file"]) for entry in json.load(open(sys.argv[1] + "/compile_commands.json"))}
ours = re.compile(r"^(src|ports|sim|loader|tools)/")
files = {f for f in files if ours.match(f) and re.search(sys.argv[2], f)}
if sys.argv[3] == "--changed":
    files &= set(sys.argv[4].split())
print("\n".join(sorted(files)))
PYTHON
)
[[ -n "${sources[0]:-}" ]] || {
  echo "clang-tidy: no file to look at"
  exit 0
}

echo "clang-tidy: ${#sources[@]} files"
printf '%s\0' "${sources[@]}" |
  xargs -0 -n 1 -P "$(nproc)" sh -c 'echo "  $2"; exec "$0" -p "$1" --quiet "$2" 2>/dev/null' "$tidy" "$build" ||
  {
    echo "clang-tidy found something" >&2
    exit 1
  }
