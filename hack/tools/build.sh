#!/usr/bin/env bash
# Builds pinned tools from the Go modules beside this file into bin/.
#
#   build.sh NAME...     build these tools unless they are there already
#   build.sh list        print every name with its version
#   build.sh assets      print the folder of kube-apiserver, etcd and kubectl, as KUBEBUILDER_ASSETS wants it
#
# Results are keyed by version, with a plain link beside them:
#
#   bin/k8s/VERSION/NAME     the control plane, kubectl and the node's Kubernetes parts (link bin/k8s/current)
#   bin/tools/NAME-VERSION   code generators and the linter (link bin/tools/NAME)
#   bin/clients/NAME-VERSION registry clients and the peer for comparison (link bin/clients/NAME)
#   bin/servers/NAME-VERSION what a registry stands on in tests: an S3 server (link bin/servers/NAME)
#   bin/node/NAME-VERSION    what else a node needs (link bin/node/NAME; CNI plugins under bin/node/cni)
#   bin/NAME                 a link for what people type: kubectl, crane, regctl, helm, cosign, registry-peer, versitygw
#
# A stamp beside each result holds all that it was built from, so that a second call costs nothing and a
# change of version, flag or compiler builds again. Works with the bash 3.2 of macOS.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${TIDELOCK_BIN:-$root/bin}

# A caller's workspace or module flags must not change what is built from these modules.
export GOWORK=off GOFLAGS=-buildvcs=false

k8s_tools="kube-apiserver etcd kubectl kube-controller-manager kube-scheduler kubelet kube-proxy"
node_tools="containerd containerd-shim-runc-v2 ctr runc coredns ptp loopback host-local portmap"
all_tools="$k8s_tools controller-gen oapi-codegen golangci-lint crane regctl helm cosign registry-peer versitygw $node_tools"

die() { echo "build.sh: $*" >&2; exit 1; }

# describe NAME sets: module (folder under hack/tools), source (Go module that gives the version), package,
# dir (under bin/), and where they differ from the defaults: cgo, tags, ldflags, user (link in bin/).
describe() {
  cgo=0 tags="" ldflags="-s -w" user=""
  case $1 in
    etcd)
      module=k8s source=go.etcd.io/etcd/server/v3 package=go.etcd.io/etcd/server/v3 ;;
    kube-apiserver | kubectl | kube-controller-manager | kube-scheduler | kubelet | kube-proxy)
      module=k8s source=k8s.io/kubernetes package=k8s.io/kubernetes/cmd/$1 ;;
    controller-gen)
      module=. source=sigs.k8s.io/controller-tools package=$source/cmd/controller-gen dir=tools ;;
    oapi-codegen)
      module=. source=github.com/oapi-codegen/oapi-codegen/v2 package=$source/cmd/oapi-codegen dir=tools ;;
    golangci-lint)
      module=lint source=github.com/golangci/golangci-lint/v2 package=$source/cmd/golangci-lint dir=tools ;;
    crane)
      module=clients source=github.com/google/go-containerregistry package=$source/cmd/crane dir=clients user=crane ;;
    regctl)
      module=clients source=github.com/regclient/regclient package=$source/cmd/regctl dir=clients user=regctl ;;
    helm)
      module=helm source=helm.sh/helm/v4 package=$source/cmd/helm dir=clients user=helm ;;
    cosign)
      module=cosign source=github.com/sigstore/cosign/v3 package=$source/cmd/cosign dir=clients user=cosign ;;
    registry-peer)
      module=peer source=github.com/distribution/distribution/v3 package=$source/cmd/registry dir=clients user=registry-peer ;;
    versitygw)
      module=versitygw source=github.com/versity/versitygw package=$source/cmd/versitygw dir=servers user=versitygw ;;
    containerd | containerd-shim-runc-v2 | ctr)
      module=node/containerd source=github.com/containerd/containerd/v2 package=$source/cmd/$1 dir=node
      tags="no_btrfs no_devmapper no_zfs" ;;
    runc)
      # Without the seccomp tag the RuntimeDefault profile, and with it every sandbox, fails; libseccomp needs cgo.
      module=node/runc source=github.com/opencontainers/runc package=$source dir=node cgo=1 tags=seccomp ;;
    coredns)
      module=node/coredns source=github.com/coredns/coredns package=. dir=node ;;
    ptp | loopback)
      module=node/cni source=github.com/containernetworking/plugins package=$source/plugins/main/$1 dir=node/cni ;;
    host-local)
      module=node/cni source=github.com/containernetworking/plugins package=$source/plugins/ipam/$1 dir=node/cni ;;
    portmap)
      module=node/cni source=github.com/containernetworking/plugins package=$source/plugins/meta/$1 dir=node/cni ;;
    *) die "no tool is called '$1'; there are: $all_tools" ;;
  esac
  version=$(required "$source") || die "$here/$module/go.mod does not require $source"
  if [ "$module" = k8s ]; then
    # All of one Kubernetes release lives in one folder, which is what envtest takes; etcd comes with it.
    release=$(required k8s.io/kubernetes)
    dir=k8s/${release#v}
    if [ "$1" = kubectl ]; then user=kubectl; fi
  fi
  case $1 in # what the programs call their own version
    kube*)
      ldflags="$ldflags -X k8s.io/component-base/version.gitVersion=$release -X k8s.io/component-base/version.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=$release" ;;
    helm) ldflags="$ldflags -X helm.sh/helm/v4/internal/version.version=$version" ;;
    crane) ldflags="$ldflags -X $package/cmd.Version=$version" ;;
    cosign) ldflags="$ldflags -X sigs.k8s.io/release-utils/version.gitVersion=$version" ;;
    registry-peer) ldflags="$ldflags -X github.com/distribution/distribution/v3/version.version=$version" ;;
    containerd*) ldflags="$ldflags -X $source/version.Version=${version#v}" ;;
  esac
  case $module in
    k8s) out=$bin/$dir/$1 link="" ;;
    *) out=$bin/$dir/$1-$version link=$bin/$dir/$1 ;;
  esac
}

required() { # MODULE: the version that the current module's go.mod requires
  awk -v m="$1" '($1 == m && $2 ~ /^v/) { print $2; f = 1; exit } ($1 == "require" && $2 == m) { print $3; f = 1; exit } END { exit !f }' "$here/$module/go.mod"
}

key() { # all that the result depends on
  echo "$package $version cgo=$cgo tags=$tags ldflags=$ldflags"
  go env GOVERSION GOOS GOARCH
  { cat "$here/$module"/go.{mod,sum} "$here/$module"/*.go 2> /dev/null || true; } | cksum
}

link() { # TARGET LINK: make LINK point at TARGET, both under bin/
  if [ "$(readlink "$2" 2>/dev/null)" != "$1" ]; then
    ln -sfn "$1" "$2"
  fi
}

build() {
  describe "$1"
  local stamp=${out%/*}/.${out##*/}.stamp want started=$SECONDS
  want=$(key)
  if [ ! -x "$out" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    echo "building $1 $version (once; the result stays in ${out#"$root"/})" >&2
    mkdir -p "${out%/*}"
    # Built beside the result and renamed: a build that is stopped, or two at once, leave nothing half written.
    (cd "$here/$module" && CGO_ENABLED=$cgo nice go build -trimpath -tags "$tags" -ldflags "$ldflags" -o "$out.$$" "$package") || {
      rm -f "$out.$$"
      die "building $1 failed"
    }
    mv -f "$out.$$" "$out"
    printf '%s\n' "$want" > "$stamp"
    echo "built $1 in $((SECONDS - started)) s" >&2
  fi
  if [ -n "$link" ]; then link "${out##*/}" "$link"; fi
  if [ "$module" = k8s ]; then link "${dir#k8s/}" "$bin/k8s/current"; fi
  if [ -n "$user" ]; then link "${out#"$bin"/}" "$bin/$user"; fi
}

command -v go > /dev/null || die "Go is not installed; its version is in go.mod"
[ $# -gt 0 ] || die "usage: build.sh NAME... | list | assets"
case $1 in
  list) for t in $all_tools; do describe "$t" && printf '%-24s %s\n' "$t" "$version"; done ;;
  assets) describe kube-apiserver && echo "${out%/*}" ;;
  *) for t in "$@"; do build "$t"; done ;;
esac
