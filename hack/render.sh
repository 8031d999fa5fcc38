#!/usr/bin/env bash
# render.sh IMAGE [FOLDER] prints config/FOLDER, config/default without one, with IMAGE in place of the released one.
set -euo pipefail
[ $# = 1 ] || [ $# = 2 ] || { echo "usage: render.sh IMAGE [FOLDER]" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# A tag or digest stands in the last part of the name; a colon before it belongs to a port.
case ${1##*/} in
  *@*) name=${1%@*} version="digest: ${1##*@}" ;;
  *:*) name=${1%:*} version="newTag: \"${1##*:}\"" ;;
  *) name=$1 version="newTag: latest" ;;
esac

# kustomize takes bases only by a relative path and files only from its own folder, hence a folder below the project.
mkdir -p "$root/dist"
dir=$(mktemp -d "$root/dist/render.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cat > "$dir/kustomization.yaml" << END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../config/${2:-default}]
images: [{name: ghcr.io/tidelock/tidelock, newName: "$name", $version}]
END
"$root/bin/kubectl" kustomize "$dir"
