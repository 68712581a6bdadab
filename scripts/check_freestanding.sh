#!/bin/bash
# What does the core ask of the enclave's runtime? Nothing but memcpy, memmove, memset, memcmp (which a compiler may
# call on its own) and the port. Links the given objects into one and looks at what is left undefined.
#   check_freestanding.sh OBJECT...
#   check_freestanding.sh --self-test COMPILER     shows that bad objects are caught
set -euo pipefail

allowed='^(memcpy|memmove|memset|memcmp|exclave_port_[a-z0-9_]+)$'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {
  (($#)) || {
    echo "no objects to check"
    return 1
  }
  ld -r -o "$work/all.o" "$@" || return 1
  local status=0 bad
  # _GLOBAL_OFFSET_TABLE_ is the linker's own.
  bad=$(nm --undefined-only --format=just-symbols "$work/all.o" | grep -vE "$allowed" |
    grep -vx '_GLOBAL_OFFSET_TABLE_' || true)
  if [[ -n "$bad" ]]; then
    echo "undefined, and neither mem* nor the port's:"
    c++filt <<<"$bad" | sed 's/^/  /'
    # The objects that ask for them.
    nm -A --undefined-only "$@" | grep -wF -f <(echo "$bad") | sed 's/:.* U /: /; s/^/  in /' | head -20
    status=1
  fi
  # A thread_local leaves no undefined symbol where the linker may relax it, but does leave a section.
  if readelf -SW "$work/all.o" | grep -qE ' \.(tbss|tdata)'; then
    echo "thread_local data in:"
    for object in "$@"; do
      if readelf -SW "$object" | grep -qE ' \.(tbss|tdata)'; then echo "  $object"; fi
    done
    status=1
  fi
  return $status
}

self_test() {
  local compiler=$1
  expect() { # expect RESULT NAME SOURCE
    echo "$3" >"$work/$2.cpp"
    "$compiler" -std=c++20 -O1 -fPIC -ffreestanding -fno-exceptions -fno-stack-protector -c "$work/$2.cpp" -o "$work/$2.o"
    local result=passes
    check "$work/$2.o" >"$work/output" || result=fails
    if [[ $result != "$1" ]]; then
      echo "self-test: '$2' $result, but should not:"
      cat "$work/output"
      exit 1
    fi
    echo "self-test: '$2' $result, as it should"
  }
  expect passes good 'extern "C" unsigned exclave_port_thread_slot() noexcept;
    extern "C" void* memcpy(void*, const void*, decltype(sizeof 0));
    unsigned f(void* a, void* b, unsigned long n) { memcpy(a, b, n); return exclave_port_thread_slot(); }'
  expect fails libc 'extern "C" void abort(); void f() { abort(); }'
  expect fails operator_new 'int* f() { return new int; }'
  expect fails lookalike 'extern "C" void memcpy_s(); void f() { memcpy_s(); }'
  expect fails thread_local 'static thread_local int slot; int f() { return ++slot; }'
  expect fails guarded_static 'int g(); int f() { static int x = g(); return x; }'
  if check "$work/no_such_object.o" >/dev/null 2>&1; then
    echo "self-test: a missing object passes"
    exit 1
  fi
}

if [[ "${1:-}" == --self-test ]]; then
  self_test "$2"
else
  check "$@"
  echo "$# objects, undefined: $(nm --undefined-only --format=just-symbols "$work/all.o" | sort | tr '\n' ' ')"
fi
