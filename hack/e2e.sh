#!/usr/bin/env bash
# e2e.sh VERSION runs the end-to-end tests on a real node of this project's own making and tears it down again.
#
# The tests get TIDELOCK_NODE (hack/node/node.sh, whose `x` runs a command inside the node), TIDELOCK_IMAGE (the
# operator's image in the node's registry) and TIDELOCK_BIN. KEEP=1 leaves the node up for a look.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
node=$root/hack/node/node.sh

"$node" check

# There is one node for each working tree: a second run would take it down under the first.
mkdir -p .node
exec {lock}> .node/e2e.lock
flock -n "$lock" || { echo "e2e.sh: another run is under way in this working tree" >&2; exit 1; }

"$node" build
make image VERSION="$1"

tests=
finish() {
  local status=$?
  trap '' INT TERM
  if [ -n "$tests" ]; then kill -TERM -- "-$tests" 2> /dev/null || true; fi
  # Above 128 somebody stopped it and need not be told why.
  if [ $status != 0 ] && [ $status -lt 128 ]; then "$node" report; fi
  if [ "${KEEP:-}" = 1 ]; then
    echo "the node is left up; look with: hack/node/node.sh x kubectl get pods -A; stop it with: hack/node/node.sh down"
  else
    "$node" down
  fi
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$node" down
"$node" up {lock}>&-
export TIDELOCK_NODE=$node TIDELOCK_BIN=$root/bin TIDELOCK_IMAGE=127.0.0.1:5000/tidelock:e2e
"$node" x crane push "$root/dist/image" "$TIDELOCK_IMAGE"
# In a process group of its own and waited for, so that a signal to this script ends the tests at once.
setsid go test -count=1 -timeout 30m -v ./test/e2e/... &
tests=$!
wait $tests
