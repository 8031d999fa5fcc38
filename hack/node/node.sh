#!/usr/bin/env bash
# A real Kubernetes node on this machine, without a container engine: control plane, kubelet, containerd, CNI, DNS
# and a small image registry, in namespaces of its own. Linux, root; cgroup v1 or v2. Nothing in it can be reached
# from outside and it reaches nothing outside, so what talks to it runs inside, through `x`.
#
#   node.sh check              say what this machine lacks to run a node, and fail if it lacks anything
#   node.sh build              build what the node consists of (about 10 minutes once)
#   node.sh up                 start the node and wait until it is ready; one that runs already stays as it is
#   node.sh x CMD...           run CMD inside the node, with kubectl, crane and KUBECONFIG at hand
#   node.sh image NAME FILE    push an image NAME:1 with the one static program FILE to the node's registry
#   node.sh mirror HOST URL [CA]
#                              let the kubelet pull images named HOST/... from URL (certificate authority in CA)
#   node.sh report             print the state of the cluster and the end of every log
#   node.sh down               stop everything and remove all but the logs
#
# Images come from a registry inside, 127.0.0.1:5000: node.sh x crane push LAYOUT 127.0.0.1:5000/NAME:TAG.
# Claims of class `standard` (the default) are bound to local volumes that are there from the start.
# State is in .node/ (NODE_DIR), logs in .node/log.
set -euo pipefail

self=$(readlink -f "${BASH_SOURCE[0]}")
root=$(dirname "$(dirname "$(dirname "$self")")")
bin=$root/bin
state=$(readlink -m "${NODE_DIR:-$root/.node}")
run=$state/run
log=$state/log
volumes=8 # local volumes of each access mode
patience=${NODE_PATIENCE:-180} # seconds until a node that is not ready is given up

k8s=$("$root/hack/tools/build.sh" assets)
PATH=$bin/node:$k8s:$bin:$PATH:/usr/sbin:/sbin

parts=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl crane
  containerd containerd-shim-runc-v2 ctr runc coredns ptp loopback host-local portmap)

die() { echo "node.sh: $*" >&2; exit 1; }

# ---- what it needs ---------------------------------------------------------------------------------------------

# Runs a command as process 1 of namespaces of its own.
own_namespaces=(unshare --mount --net --pid --uts --ipc --cgroup --fork --propagation private)

check() {
  [ "$(uname -s)" = Linux ] || die "a node needs Linux"
  [ "$(id -u)" = 0 ] || die "a node needs root"
  command -v unshare > /dev/null || die "a node needs unshare (Debian package util-linux)"
  local why
  why=$("${own_namespaces[@]}" bash -c 'mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run' 2>&1) ||
    die "a node needs namespaces and mounts of its own, which this machine refuses: $why"
  local parent
  for parent in $(cgroup_parents); do
    { mkdir "$parent/tidelock-check.$$" && rmdir "$parent/tidelock-check.$$"; } 2> /dev/null ||
      die "a node needs control groups of its own, but $parent cannot be written"
  done
}

build() {
  "$root/hack/packages.sh" gcc libc6-dev pkg-config libseccomp-dev nftables iproute2 procps openssl util-linux
  "$root/hack/tools/build.sh" "${parts[@]}"
  (cd "$root" && GOWORK=off CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/node/pause" ./hack/node/pause)
}

# ---- configuration ---------------------------------------------------------------------------------------------

configure() {
  mkdir -p "$run"/{etc/cni,etc/certs.d,etc/static,kubelet,pki,sysctl,registry,containerd}
  cat > "$run/etc/containerd.toml" << EOF
version = 3
root = '$run/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.internal.v1.opt']
  path = '$run/opt'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = '$(snapshotter)'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '127.0.0.1:5000/pause:1'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '$run/etc/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  # Where CAP_SYS_RESOURCE is missing, nobody may lower oom_score_adj.
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '$bin/node/runc'
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['$bin/node/cni']
  conf_dir = '$run/etc/cni'
EOF
  # Point to point and not a bridge: traffic between two Pods is routed, so that answers through a Service find
  # their way back without the kernel's bridge filter.
  cat > "$run/etc/cni/10-pods.conflist" << EOF
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "$run/cni", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
  # Anybody may call the kubelet: only processes of the node's own network namespace can.
  cat > "$run/etc/kubelet.yaml" << EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failSwapOn: false
maxOpenFiles: 20000
oomScoreAdj: 0
resolvConf: ""
clusterDNS: [10.99.0.1]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
imageGCHighThresholdPercent: 100
volumePluginDir: $run/volume-plugins
EOF
  # Host-wide conntrack sysctls are left alone. The default minSyncPeriod lets a Service refuse for a second after
  # its Pods are ready.
  cat > "$run/etc/kube-proxy.yaml" << EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $run/kube-proxy.kubeconfig}
hostnameOverride: node1
mode: nftables
nftables: {minSyncPeriod: 100ms}
clusterCIDR: 10.244.0.0/24
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
EOF
  cat > "$run/etc/Corefile" << EOF
.:53 {
  bind 10.99.0.1
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $run/dns.kubeconfig
  }
  cache 5
}
EOF
  : > "$run/tokens.csv"
  kubeconfig admin admin system:masters
  kubeconfig kubelet system:node:node1 system:nodes
  kubeconfig controller-manager system:kube-controller-manager ""
  kubeconfig scheduler system:kube-scheduler ""
  kubeconfig kube-proxy system:kube-proxy ""
  kubeconfig dns coredns system:masters
  openssl genrsa -out "$run/pki/sa.key" 2048 2> /dev/null
  storage > "$run/etc/storage.yaml"
}

kubeconfig() { # FILE USER GROUP
  local token
  token=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n')
  echo "$token,$2,$2,\"$3\"" >> "$run/tokens.csv"
  cat > "$run/$1.kubeconfig" << EOF
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "https://10.99.0.1:6443", certificate-authority: $run/pki/apiserver.crt}}]
users: [{name: $1, user: {token: $token}}]
contexts: [{name: node, context: {cluster: node, user: $1}}]
current-context: node
EOF
}

# Local volumes, because they honour fsGroup as cloud volumes do; a claim for ReadWriteOncePod needs a volume of
# that mode alone.
storage() {
  cat << EOF
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
EOF
  local mode i name
  for mode in ReadWriteOnce ReadWriteOncePod; do
    for i in $(seq "$volumes"); do
      name=$(echo "$mode-$i" | tr '[:upper:]' '[:lower:]')
      mkdir -p "$run/volumes/$name"
      cat << EOF
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $name}
spec:
  storageClassName: standard
  accessModes: [$mode]
  capacity: {storage: 100Gi}
  persistentVolumeReclaimPolicy: Retain
  local: {path: $run/volumes/$name}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}}
EOF
    done
  done
}

# An overlay cannot stand on an overlay, which is what a container has for a root.
snapshotter() {
  local d=$run/overlay
  mkdir -p "$d"/{lower,upper,work,merged}
  if unshare --mount --propagation private mount -t overlay overlay -o "lowerdir=$d/lower,upperdir=$d/upper,workdir=$d/work" "$d/merged" 2> /dev/null; then
    echo overlayfs
  else
    echo native
  fi
  rm -rf "$d"
}

# ---- control groups --------------------------------------------------------------------------------------------

cgroup_v2() { [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; }

# cgroup_parents prints the groups that get a child for the node: the caller's own in each v1 hierarchy, or the top
# of v2.
cgroup_parents() {
  if cgroup_v2; then
    echo /sys/fs/cgroup
    return
  fi
  local id controllers path group
  while IFS=: read -r id controllers path; do
    group=/sys/fs/cgroup/${controllers#name=}${path%/}
    if [ "$id" != 0 ] && [ -d "$group" ]; then echo "$group"; fi
  done < /proc/self/cgroup
}

# enable_controllers GROUP turns on, for the children of a v2 group, all controllers that it has.
enable_controllers() {
  local c
  for c in $(cat "$1/cgroup.controllers"); do echo "+$c" > "$1/cgroup.subtree_control" || true; done 2> /dev/null
}

has_controllers() { # GROUP: the ones that a kubelet cannot do without
  local c
  for c in cpu cpuset memory pids; do grep -qw "$c" "$1/cgroup.subtree_control" || return 1; done
}

# empty_into_leaf GROUP moves the processes of a v2 group into a child: a group with processes of its own cannot
# give controllers to children.
empty_into_leaf() {
  mkdir -p "$1/init"
  local i pid
  for i in $(seq 50); do
    [ -n "$(cat "$1/cgroup.procs")" ] || return 0
    for pid in $(cat "$1/cgroup.procs"); do echo "$pid" > "$1/init/cgroup.procs" || true; done 2> /dev/null
  done
}

# enter_cgroups puts this shell into new groups, which become the top of the node's cgroup namespace.
enter_cgroups() {
  local parent group
  for parent in $(cgroup_parents); do
    if cgroup_v2 && ! has_controllers "$parent"; then
      # In a container the top group is not the kernel's own, which alone may have both processes and children
      # with controllers. Enabling some first would make it threaded, and its children useless.
      [ ! -e "$parent/cgroup.type" ] || empty_into_leaf "$parent"
      enable_controllers "$parent"
    fi
    group=$parent/tidelock-node.$$
    mkdir -p "$group"
    echo "$group" >> "$state/cgroups"
    if ! cgroup_v2 && [ -e "$group/cpuset.mems" ]; then
      cat "$parent/cpuset.cpus" > "$group/cpuset.cpus"
      cat "$parent/cpuset.mems" > "$group/cpuset.mems"
    fi
    echo "$BASHPID" > "$group/cgroup.procs"
  done
}

remove_cgroups() {
  [ -e "$state/cgroups" ] || return 0
  local i group left=1
  for i in $(seq 100); do
    left=0
    while read -r group; do
      [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2> /dev/null || left=1
    done < "$state/cgroups"
    [ $left = 1 ] || break
    sleep 0.1
  done
  [ $left = 0 ] || die "control groups of the node are still in use: $(xargs < "$state/cgroups")"
  rm -f "$state/cgroups"
}

# ---- inside ----------------------------------------------------------------------------------------------------

# daemon NAME CMD... keeps CMD running: one that ends is started again, as a real node's service manager would.
daemon() {
  local name=$1
  shift
  while :; do
    "$@" >> "$log/$name.log" 2>&1 < /dev/null || true
    echo "$(date -u +%FT%TZ) $name ended; starting it again" >> "$log/$name.log"
    sleep 1
  done &
}

# cover FOLDER puts an empty file system over FOLDER; the project and the state stay visible if they lie below.
cover() {
  exec 8< "$root" 9< "$state"
  mount -t tmpfs tmpfs "$1"
  keep 8 "$root" "$1"
  keep 9 "$state" "$1"
  exec 8<&- 9<&-
}

keep() { # DESCRIPTOR FOLDER COVERED
  case $2 in
    "$3"/*)
      mkdir -p "$2"
      # Taken literally: made canonical, the name would lead to the covered place.
      mount --no-canonicalize --bind "/proc/self/fd/$1" "$2"
      ;;
  esac
}

# replace FILE SOURCE shows SOURCE in place of FILE, which may be a link into a folder that is covered.
replace() {
  local target
  target=$(readlink -m "$1")
  [ -e "$target" ] || { mkdir -p "$(dirname "$target")" && : > "$target"; }
  mount --bind "$2" "$target"
}

mount_cgroups() {
  if [ "$1" = v2 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    return
  fi
  mount -t tmpfs tmpfs /sys/fs/cgroup
  local id controllers path dir c
  while IFS=: read -r id controllers path; do
    [ "$id" != 0 ] || continue
    dir=/sys/fs/cgroup/${controllers#name=}
    mkdir "$dir"
    case $controllers in
      name=*) mount -t cgroup -o "none,$controllers" cgroup "$dir" ;;
      *) mount -t cgroup -o "$controllers" cgroup "$dir" ;;
    esac
    for c in ${controllers//,/ }; do # cpu,cpuacct are often one hierarchy, known by either name
      [ -e "/sys/fs/cgroup/${c#name=}" ] || ln -s "$controllers" "/sys/fs/cgroup/$c"
    done
  done < /proc/self/cgroup
}

mount_inside() {
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount_cgroups "$1"
  local dir file sysctl
  for dir in /run /var/log /var/lib; do cover "$dir"; done
  mkdir -p /var/log/pods /var/log/containers /var/lib/kubelet
  mount --bind "$run/kubelet" /var/lib/kubelet
  # The kubelet insists on writing these, which are the whole machine's: it gets plain files instead.
  for sysctl in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    file=$run/sysctl/${sysctl//\//.}
    cat "/proc/sys/$sysctl" > "$file"
    mount --bind "$file" "/proc/sys/$sysctl"
  done
  printf 'nameserver 10.99.0.1\noptions timeout:1 attempts:2\n' > "$run/etc/static/resolv.conf"
  printf '127.0.0.1 localhost\n10.99.0.1 node1\n' > "$run/etc/static/hosts"
  replace /etc/resolv.conf "$run/etc/static/resolv.conf"
  replace /etc/hosts "$run/etc/static/hosts"
  mount --make-rshared /
}

network_inside() {
  hostname node1
  ip link set lo up
  # A veth pair stands for the machine's network card, since not every kernel has dummy devices.
  ip link add node0 type veth peer name node0p
  ip addr add 10.99.0.1/24 dev node0
  ip link set node0p up
  ip link set node0 up
  # Without a default route a ClusterIP is unreachable before it is translated.
  ip route add default dev node0
  echo 1 > /proc/sys/net/ipv4/ip_forward
}

# init is process 1 of the node's pid namespace: when it dies, the kernel ends every process of the node.
init() {
  mount_inside "$1"
  network_inside
  export KUBECONFIG=$run/admin.kubeconfig
  daemon registry crane registry serve --address 127.0.0.1:5000 --disk "$run/registry"
  # Nothing here outlives the node, so etcd need not sync to disk.
  daemon etcd etcd --data-dir "$run/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn
  daemon containerd containerd -c "$run/etc/containerd.toml"
  daemon kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --cert-dir "$run/pki" --bind-address 0.0.0.0 --secure-port 6443 \
    --advertise-address 10.99.0.1 --external-hostname 10.99.0.1 --service-cluster-ip-range 10.96.0.0/16 \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$run/pki/sa.key" --service-account-signing-key-file "$run/pki/sa.key" \
    --token-auth-file "$run/tokens.csv" --authorization-mode Node,RBAC --allow-privileged --kubelet-preferred-address-types InternalIP
  # The controller manager ends if it comes before RBAC's own objects.
  until [ "$(kubectl get --raw /readyz 2> /dev/null)" = ok ]; do sleep 0.1; done
  daemon controller-manager kube-controller-manager --kubeconfig "$run/controller-manager.kubeconfig" --use-service-account-credentials \
    --service-account-private-key-file "$run/pki/sa.key" --root-ca-file "$run/pki/apiserver.crt" --leader-elect=false --cert-dir "$run/pki/controller-manager" \
    --flex-volume-plugin-dir "$run/volume-plugins" --kube-api-qps 300 --kube-api-burst 600
  daemon scheduler kube-scheduler --kubeconfig "$run/scheduler.kubeconfig" --leader-elect=false --cert-dir "$run/pki/scheduler"
  daemon kubelet kubelet --config "$run/etc/kubelet.yaml" --kubeconfig "$run/kubelet.kubeconfig" --hostname-override node1 --node-ip 10.99.0.1 --v=2
  daemon kube-proxy kube-proxy --config "$run/etc/kube-proxy.yaml"
  daemon coredns coredns -conf "$run/etc/Corefile"
  while :; do sleep 3600 & wait $!; done
}

# ---- outside ---------------------------------------------------------------------------------------------------

# outer stays outside as the parent of process 1 and ends with it.
outer() {
  local version=v1 pid child group
  if cgroup_v2; then version=v2; fi
  enter_cgroups
  "${own_namespaces[@]}" bash -c 'while [ ! -e "$1" ]; do sleep 0.05; done; exec bash "$0" init "$2"' "$self" "$state/go" "$version" &
  pid=$!
  until child=$(pgrep -P "$pid"); do
    kill -0 "$pid" || die "the namespaces of the node could not be made"
    sleep 0.05
  done
  if [ $version = v2 ]; then
    group=$(cat "$state/cgroups")
    empty_into_leaf "$group"
    enable_controllers "$group"
    has_controllers "$group" || echo "node.sh: the kubelet needs more control group controllers than $(cat "$group/cgroup.subtree_control")"
  fi
  echo "$child" > "$state/init.pid"
  : > "$state/go"
  wait "$pid"
}

# running prints process 1 of the node, as seen from outside, if it is alive and really ours.
running() {
  local pid
  pid=$(cat "$state/init.pid" 2> /dev/null) && [ -n "$pid" ] && grep -qzxF "$self" "/proc/$pid/cmdline" 2> /dev/null && echo "$pid"
}

x() {
  local pid
  pid=$(running) || die "the node is not up"
  exec nsenter -t "$pid" -m -n -p -u -i -C env PATH="$PATH" KUBECONFIG="$run/admin.kubeconfig" \
    sh -c 'cd "$1" && shift && exec "$@"' sh "$PWD" "$@"
}

# The default ServiceAccount comes from the controller manager, and no Pod is admitted without it.
ready() {
  [ "$("$self" x kubectl get node node1 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ] &&
    "$self" x kubectl get serviceaccount default > /dev/null
} 2> /dev/null

# alone keeps a second up or down away from this state until the first is through.
alone() {
  mkdir -p "$state"
  exec {lock}> "$state/lock"
  flock -w 300 "$lock" || die "another call is busy with $state"
}

up() {
  check
  alone
  if ready; then
    echo "the node is up" >&2
    return
  fi
  tear_down
  unshare --net nft add table ip tidelock || die "a node needs nft (Debian package nftables) and a kernel with nf_tables"
  rm -rf "$log"
  mkdir -p "$log"
  configure
  setsid nohup "$self" outer > "$log/node.log" 2>&1 < /dev/null {lock}>&- &
  local outer=$! started=$SECONDS
  until ready; do
    if ! kill -0 $outer 2> /dev/null || [ $((SECONDS - started)) -gt "$patience" ]; then
      report
      tear_down
      die "the node did not become ready; its logs are in $log"
    fi
    sleep 0.2
  done
  "$self" x kubectl apply -f "$run/etc/storage.yaml" > /dev/null
  image pause "$bin/node/pause" > /dev/null
  echo "the node is ready after $((SECONDS - started)) s" >&2
}

down() {
  [ -d "$state" ] || return 0
  alone
  tear_down
}

tear_down() {
  local pid
  if pid=$(running); then
    kill -KILL "$pid"
    while [ -d "/proc/$pid" ]; do sleep 0.05; done
  fi
  remove_cgroups
  rm -rf --one-file-system "$run" "$state/init.pid" "$state/go"
}

image() {
  [ $# = 2 ] || die "usage: node.sh image NAME FILE"
  running > /dev/null || die "the node is not up"
  local tar=$run/$1.tar arch
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) arch=$(uname -m) ;;
  esac
  tar --owner=0 --group=0 --numeric-owner --mtime=@0 --transform "s#.*#$1#" -C / -cf "$tar" "$(readlink -f "$2" | cut -c2-)"
  "$self" x crane append -f "$tar" -t "127.0.0.1:5000/$1:layer" 2>> "$log/registry.log"
  "$self" x crane mutate --entrypoint "/$1" --set-platform "linux/$arch" -t "127.0.0.1:5000/$1:1" "127.0.0.1:5000/$1:layer" 2>> "$log/registry.log"
  rm -f "$tar"
}

mirror() {
  [ $# -ge 2 ] || die "usage: node.sh mirror HOST URL [CA]"
  running > /dev/null || die "the node is not up"
  local dir=$run/etc/certs.d/$1
  mkdir -p "$dir"
  {
    echo "server = \"$2\""
    echo "[host.\"$2\"]"
    echo '  capabilities = ["pull", "resolve"]'
    if [ -n "${3:-}" ]; then
      cp "$3" "$dir/ca.crt"
      echo "  ca = \"$dir/ca.crt\""
    fi
  } > "$dir/hosts.toml"
}

report() {
  if running > /dev/null; then
    timeout 20 "$self" x kubectl get nodes,pods,services,persistentvolumeclaims -A -o wide || true
    timeout 20 "$self" x kubectl events -A || true
    local pod
    for pod in $(timeout 20 "$self" x kubectl get pods -A -o 'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}'); do
      echo "== log of Pod $pod"
      timeout 20 "$self" x kubectl logs -n "${pod%/*}" "${pod#*/}" --all-containers --prefix --tail=40 || true
    done
  fi
  local file
  for file in "$log"/*.log; do
    [ -s "$file" ] || continue
    echo "== end of $file"
    tail -n 15 "$file"
  done
} 2>&1

case ${1:-} in
  check | build | up | down | report | outer) "$1" ;;
  x | image | mirror | init) "$@" ;;
  *)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$self"
    exit 2
    ;;
esac
