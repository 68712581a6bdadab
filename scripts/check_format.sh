#!/bin/bash
# Is every C and C++ source in the house style (.clang-format)? With --fix, puts it there.
set -euo pipefail
cd "$(dirname "$0")/.."

formatter=${CLANG_FORMAT:-clang-format-14}
# Files that git ignores are not ours; a tree without git (a tarball) is taken whole, but for build/.
if git rev-parse --git-dir >/dev/null 2>&1; then
  list() { git ls-files -z --cached --others --exclude-standard -- "$@"; }
else
  list() { find . -path ./build -prune -o \( -name '*.cpp' -o -name '*.hpp' -o -name '*.c' -o -name '*.h' \) -print0; }
fi
sources=()
while IFS= read -r -d '' file; do
  [[ -f "$file" ]] && sources+=("$file") # a deleted file stays in git's list until the commit
done < <(list '*.cpp' '*.hpp' '*.c' '*.h')
((${#sources[@]})) || exit 0

if [[ "${1:-}" == --fix ]]; then
  "$formatter" -i "${sources[@]}"
  exit
fi
if ! complaints=$("$formatter" --dry-run -Werror "${sources[@]}" 2>&1); then
  # One line for each file, with the first place in it.
  grep -E ': (error|warning): ' <<<"$complaints" | awk -F: '!seen[$1]++ { print $1 ":" $2 }' || true
  grep -q 'clang-format-violations' <<<"$complaints" || echo "$complaints"
  echo "not in the house style; run: make format" >&2
  exit 1
fi
echo "${#sources[@]} files in the house style"
