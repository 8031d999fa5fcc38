#!/usr/bin/env bash
# Fails unless go.mod requires the very version of modernc.org/libc that modernc.org/sqlite was translated for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

gomod=$(go list -m -f '{{.GoMod}}' modernc.org/sqlite)
want=$(awk '$1 == "modernc.org/libc" { print $2 }' "$gomod")
have=$(go list -m -f '{{.Version}}' modernc.org/libc)
if [ -z "$want" ] || [ "$have" != "$want" ]; then
  echo "go.mod has modernc.org/libc $have, but modernc.org/sqlite needs exactly ${want:-(not found)}:" >&2
  echo "  go get modernc.org/libc@$want" >&2
  exit 1
fi
