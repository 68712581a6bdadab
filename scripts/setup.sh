#!/bin/bash
# Installs what a group of commands needs, from Debian's own registry. Usage: setup.sh GROUP...
# Asks dpkg first and calls apt-get only when something is missing, so a second call costs milliseconds.
set -euo pipefail

declare -A packages=(
  [build]="make ccache cmake ninja-build g++ pkg-config libssl-dev liburing-dev libcli11-dev"
  # python3-cryptography: an implementation of the sealed file that is not ours. sqlite3 and on: real programs that run under libexclave_malloc.so.
  [test]="binutils python3 python3-cryptography libgtest-dev libgmock-dev clang-format-14 sqlite3 perl lua5.4 xz-utils"
  [check]="clang-14 clang-tidy-14 libclang-rt-14-dev valgrind gcovr"
  [models]="spin gcc python3"
  # Real programs that run under `exclave exec`.
  [exec]="sqlite3 redis-tools fio stress-ng tcpdump gcc python3"
  # What make bench-programs times beside those.
  [programs]="clang-14 z3"
  [prove]="libz3-dev python3"
  [bench]="libbenchmark-dev valgrind python3"
  # Whom `make bench` measures beside exclave; it does without those that cannot be had.
  [peers]="libmimalloc2.0 libjemalloc2 libtcmalloc-minimal4 libclang-rt-14-dev libmemkind0 librte-eal23 libboost-dev"
)

die() {
  echo "setup: $*" >&2
  exit 1
}

wanted=()
for group in "$@"; do
  [[ -n "${packages[$group]:-}" ]] || die "no group named '$group' (have: ${!packages[*]})"
  read -ra names <<<"${packages[$group]}"
  wanted+=("${names[@]}")
done
((${#wanted[@]})) || die "usage: setup.sh GROUP... (have: ${!packages[*]})"

command -v dpkg-query >/dev/null || die "this set-up knows Debian 12 only; install by other means: ${wanted[*]}, then set EXCLAVE_SKIP_SETUP=1"

installed=" $(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
  sed -n 's/^installed //p' | tr '\n' ' ' || true) "
missing=()
for name in "${wanted[@]}"; do
  [[ "$installed" == *" $name "* ]] || missing+=("$name")
done
((${#missing[@]})) || exit 0

. /etc/os-release
[[ "${ID:-}" == debian && "${VERSION_ID:-}" == 12 ]] ||
  die "this set-up knows Debian 12 only, not ${PRETTY_NAME:-this system}; install by other means: ${missing[*]}, then set EXCLAVE_SKIP_SETUP=1"

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || die "not root and no sudo; as root, run: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q || die "apt-get update failed"
"${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}" ||
  die "apt-get install failed for: ${missing[*]}"
