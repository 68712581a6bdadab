#!/bin/bash
# Runs every fuzz target for some seconds, several at once; stops at the first finding and names its input.
#   fuzz.sh BUILD_DIR SECONDS [JOBS]     BUILD_DIR is of the fuzz preset
# What is learnt stays in BUILD_DIR/corpus; fuzz/corpus/TARGET is where each target begins.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
  echo "fuzz: $*" >&2
  exit 2
}
(($# == 2 || $# == 3)) || die "usage: fuzz.sh BUILD_DIR SECONDS [JOBS]"
build=$1 seconds=$2 jobs=${3:-1}
[[ "$seconds" =~ ^[1-9][0-9]{0,6}$ ]] || die "SECONDS is '$seconds', not a whole number from 1 to 9999999"
[[ "$jobs" =~ ^[1-9][0-9]{0,3}$ ]] || die "JOBS is '$jobs', not a whole number above 0"
targets=("$build"/fuzz/exclave_fuzz_*)
[[ -x "${targets[0]}" ]] || die "no fuzz targets in $build/fuzz"

one() { # target: runs it, tells one line
  local program=$1 name=${1##*/exclave_fuzz_}
  local corpus=$build/corpus/$name log=$build/corpus/$name.log findings=$build/findings
  mkdir -p "$corpus" "$findings"
  local begin=("$corpus")
  [[ -d fuzz/corpus/$name ]] && begin+=("fuzz/corpus/$name")
  if ! "$program" -max_total_time="$seconds" -len_control=0 -max_len=1024 -timeout=60 -rss_limit_mb=3072 \
    -print_final_stats=1 -artifact_prefix="$findings/$name-" "${begin[@]}" >"$log" 2>&1; then
    grep -E -A4 'Failure$|ERROR: |runtime error' "$log" | head -20 || true
    local input
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    echo "fuzz: $name: a finding: ${input:-see $log}"
    [[ -z "$input" ]] || echo "fuzz: show it as C++ with: $program --print $input"
    return 1
  fi
  local last
  last=$(grep -E '^#[0-9]+\s+DONE' "$log" | tail -1)
  echo "fuzz: $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs," \
    "$(sed -E 's/.*cov: ([0-9]+) ft: ([0-9]+).*/\1 edges, \2 features/' <<<"$last")"
}

status=0 running=0
for target in "${targets[@]}"; do
  if ((running == jobs)); then
    wait -n || status=1
    running=$((running - 1))
  fi
  ((status == 0)) || break
  one "$target" &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || status=1
  running=$((running - 1))
done
exit $status
