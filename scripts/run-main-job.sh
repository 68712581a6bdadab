#!/bin/bash
# The main job on a real file: seal it through untrusted memory, unseal it, compare every byte; then seal it once more
# beside an attacker, who must be found out.
#   run-main-job.sh EXCLAVE WORK_DIR
set -euo pipefail

exclave=$1 work=$2
key=$work/key input=$work/input
mkdir -p "$work"

# Some hundred MB of what every machine has: its programs, libraries and documents. Made once.
if [[ ! -s $input ]]; then
  echo "run: collecting an input file from /usr (once)"
  # tar stops early when head has enough; a file that vanishes or cannot be read does not matter here.
  { tar -cf - -C /usr lib share bin 2>/dev/null || true; } | head -c 300M >"$input.part"
  mv "$input.part" "$input"
fi
[[ -e $key ]] || "$exclave" keygen "$key"
# What an earlier run left; --force would need room for both.
rm -f "$work/sealed" "$work/roundtrip" "$work/sealed-hostile"

echo "run: seal $input ($(stat -c %s "$input") bytes)"
"$exclave" seal --key-file "$key" --report "$work/report.html" "$input" "$work/sealed"

echo "run: unseal, and compare every byte"
"$exclave" unseal --key-file "$key" --report "$work/report-unseal.html" "$work/sealed" "$work/roundtrip"
cmp "$input" "$work/roundtrip"
echo "run: every byte came back"

echo "run: seal --hostile: beside a process that scribbles over the untrusted memory"
status=0
"$exclave" seal --hostile --key-file "$key" --report "$work/report-hostile.html" "$input" "$work/sealed-hostile" ||
  status=$?
# 5: tampering was found, and nothing stands under the final name. 0: the attacker hit nothing that mattered.
case $status in
  0) echo "run: the attacker changed no block" ;;
  5)
    [[ ! -e $work/sealed-hostile ]] || {
      echo "run: tampered output under its final name" >&2
      exit 1
    }
    echo "run: the tampering was found, as it should be"
    ;;
  *)
    echo "run: seal --hostile failed with $status" >&2
    exit 1
    ;;
esac
rm -f "$work/roundtrip" "$work/sealed-hostile"

echo "run: reports: $work/report.html $work/report-unseal.html $work/report-hostile.html"
