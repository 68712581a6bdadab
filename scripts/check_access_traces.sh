#!/bin/bash
# Steps through the boundary's machine code as g++ and clang make it at -O2 and -O3, with every alignment of both sides and
# every length to 130, and reads the object code that an enclave gets. Usage: check_access_traces.sh [COMPILER-LEVEL...]
# such as g++-O2; all four without arguments. Builds under build/traces.
set -euo pipefail
cd "$(dirname "$0")/.."

all=(g++-O2 g++-O3 clang++-14-O2 clang++-14-O3)
variants=("$@")
((${#variants[@]})) || variants=("${all[@]}")
for variant in "${variants[@]}"; do
  [[ " ${all[*]} " == *" $variant "* ]] || {
    echo "access-traces: no variant '$variant' (have: ${all[*]})" >&2
    exit 2
  }
done

for variant in "${variants[@]}"; do
  start=$SECONDS
  cxx=${variant%-O?}
  level=-O${variant##*-O}
  cc=${cxx/clang++/clang}
  cc=${cc/g++/gcc}
  dir=build/traces/$variant
  mkdir -p "$dir"
  if ! {
    cmake -S . -B "$dir" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_C_COMPILER="$cc" \
      -DCMAKE_CXX_FLAGS_RELEASE="$level -DNDEBUG" -DEXCLAVE_FREESTANDING_LEVEL="$level" -DEXCLAVE_BUILD_TESTS=ON \
      -DEXCLAVE_BUILD_TOOLS=OFF -DEXCLAVE_BUILD_MALLOC=OFF -DEXCLAVE_BUILD_EXAMPLES=OFF &&
      cmake --build "$dir" --target access_test exclave_core_freestanding
  } >"$dir/build.log" 2>&1; then
    tail -20 "$dir/build.log" >&2
    echo "access-traces: $variant does not build" >&2
    exit 1
  fi
  if ! EXCLAVE_EVERY_LENGTH=1 "$dir/tests/access_test" --gtest_brief=1 \
    --gtest_filter='*SteppedCode*:*FaultingCode*:*ObjectCode*' >"$dir/run.log" 2>&1; then
    grep -v '^\[' "$dir/run.log" | head -20 >&2
    echo "access-traces: $variant breaks the rules; see $dir/run.log" >&2
    exit 1
  fi
  echo "access-traces: $variant: $(sed -n 's/^\[==========\] \(.*\) ran.*/\1/p' "$dir/run.log"), all rules kept, $((SECONDS - start)) s"
done
