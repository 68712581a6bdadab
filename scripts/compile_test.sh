#!/bin/bash
# One half of a compile-fail pair.
#   compile_test.sh ok   SOURCE COMPILER...    SOURCE compiles
#   compile_test.sh fail SOURCE COMPILER...    with -DEXCLAVE_MUST_FAIL it does not, for the reason that it names:
#                                              one of its lines "// error: REGEX" matches the compiler's output
set -euo pipefail

expected=$1 source=$2
shift 2

if [[ $expected == ok ]]; then
  exec "$@" "$source"
fi

if output=$("$@" -DEXCLAVE_MUST_FAIL "$source" 2>&1); then
  echo "$source compiles with -DEXCLAVE_MUST_FAIL"
  exit 1
fi
reasons=$(sed -n 's|^ *// error: ||p' "$source")
if [[ -z "$reasons" ]]; then
  echo "$source does not say why it must fail (a line '// error: REGEX')"
  exit 1
fi
# Compilers quote the source line, comments and all: only their own words count.
if ! grep -E '(error|note): ' <<<"$output" | grep -vE '^ *[0-9]* *\|' | grep -qE -f <(echo "$reasons"); then
  echo "$source fails, but for another reason:"
  echo "$output"
  exit 1
fi
