#!/usr/bin/env bash
# conformance.sh SUITE runs the OCI conformance suite (the folder conformance of opencontainers/distribution-spec, built
# with `go build`) against a fresh registry, for the released specification and for its current draft, with every
# optional test switched on. It fails if a test fails, is skipped or is switched off, and if the suite prints a warning.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ ! -x "${1:-}" ]; then
  echo "conformance.sh: where is the suite? Run: make conformance CONFORMANCE=path/to/its/binary" >&2
  exit 2
fi
suite=$(realpath "$1")

work=$(mktemp -d)
registry=
stop() {
  if [ -n "$registry" ]; then
    kill -TERM "$registry" 2> /dev/null || true
    wait "$registry" || true
  fi
  registry=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
echo "$password" > "$work/password"

start() { # VERSION: a registry of its own; sets `registry` and `address`
  "$root/bin/tidelock" registry --data-dir "$work/$1/data" --listen 127.0.0.1:0 --admin-password-file "$work/password" \
    --sparse-indexes --sparse-images > "$work/$1/log" 2>&1 &
  registry=$!
  for _ in $(seq 300); do
    address=$(sed -n 's|.*http://\(127\.0\.0\.1:[0-9]*\).*|\1|p' "$work/$1/log" | head -n 1)
    if [ -n "$address" ]; then return; fi
    if ! kill -0 "$registry" 2> /dev/null; then break; fi
    sleep 0.1
  done
  cat "$work/$1/log" >&2
  echo "conformance.sh: the registry did not start" >&2
  exit 1
}

# Everything that the suite leaves out by itself.
optional=(
  OCI_API_BLOBS_DIGEST_HEADER OCI_API_BLOBS_MOUNT_ANONYMOUS OCI_API_BLOBS_UPLOAD_CANCEL OCI_API_MANIFESTS_DIGEST_HEADER
  OCI_API_MANIFESTS_TAG_PARAM OCI_DATA_SPARSE
)

failed=
for version in 1.1 dev; do
  mkdir "$work/$version"
  start "$version"
  settings=(
    OCI_VERSION="$version" OCI_REGISTRY="$address" OCI_TLS=disabled OCI_USERNAME=admin OCI_PASSWORD="$password"
    OCI_RESULTS_DIR="$work/$version/results"
  )
  for name in "${optional[@]}"; do settings+=("$name=true"); done
  echo "== OCI Distribution Specification, version $version"
  # An environment and a directory of its own: no variable or file of the caller's may switch anything off.
  env -i -C "$work" HOME="$work" PATH="$PATH" "${settings[@]}" "$suite" > "$work/$version/out" 2> "$work/$version/err" || failed=1
  stop
  # Any word on stderr is a warning; a test that was left out has shown nothing.
  if [ -s "$work/$version/err" ] || ! grep -q '^OCI Conformance Result: Pass$' "$work/$version/out" ||
    grep -Eq '^  (Disabled|Skip|FAIL|Error)\.*: +[1-9]' "$work/$version/out"; then
    failed=1
    cat "$work/$version/out" "$work/$version/err"
  else
    sed -n '/^OCI Conformance Result:/,$p' "$work/$version/out"
  fi
done
if [ -n "$failed" ]; then
  echo "conformance.sh: tests failed, were left out, or came with a warning; see above" >&2
  exit 1
fi
