#!/usr/bin/env bash
# fuzz.sh TIME looks for input that breaks a parser, for TIME (such as 5m) with each fuzz target of the project. What it
# finds is written to testdata/fuzz beside the target, and stays there as a seed: `make test` runs all seeds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:?how long each target is to run, such as 5m}

targets=$(git ls-files --cached --others --exclude-standard '*_test.go' | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/:func /:/' | sort)
[ -n "$targets" ] || { echo "fuzz.sh: there are no fuzz targets" >&2; exit 1; }

failed=
while IFS=: read -r file target; do
  echo "== $target in $(dirname "$file"), $time"
  # -run selects no test: those have their own time.
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")" || failed="$failed $target"
done <<< "$targets"
if [ -n "$failed" ]; then
  echo "fuzz.sh: these targets failed:$failed; the input is in testdata/fuzz beside each" >&2
  exit 1
fi
