#!/usr/bin/env bash
# Fails, with the difference, if generated files or go.mod are not what `make generate manifests` and
# `go mod tidy` make of the tree. Works on a copy: the tree itself is not changed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

"$root/hack/tools/build.sh" controller-gen oapi-codegen

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/was" "$tmp/is"
# What Git has or would add; a file that is deleted but not yet committed is listed and not there.
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --null -T - -cf - | tar -xf - -C "$tmp/was"
cp -a "$tmp/was/." "$tmp/is/"
ln -s "$root/bin" "$tmp/is/bin"

(cd "$tmp/is" && GOWORK=off GOFLAGS=-buildvcs=false make generate manifests && GOWORK=off go mod tidy)
rm "$tmp/is/bin"

if ! (cd "$tmp" && diff -ruN was is); then
  echo >&2
  echo "Generated files or go.mod are not current. Run: make generate manifests && go mod tidy" >&2
  exit 1
fi
echo "generated files and go.mod are current"
