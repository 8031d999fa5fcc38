#!/usr/bin/env bash
# packages.sh NAME... makes sure that what Debian's packages NAME... provide is there: installs what is missing
# when it can (root, apt-get), else names it and fails. Anything found by its command counts, however it came.
set -euo pipefail

present() { # PACKAGE: is what we need of it there?
  case $1 in
    gcc) command -v "${CC:-cc}" || command -v gcc ;;
    libc6-dev) echo '#include <stdlib.h>' | "${CC:-cc}" -E - ;;
    libseccomp-dev) pkg-config --exists 'libseccomp >= 2.5' ;;
    nftables) command -v nft ;;
    iproute2) command -v ip ;;
    procps) command -v pgrep ;;
    util-linux) command -v unshare && command -v nsenter && command -v setsid && command -v flock ;;
    # The server's programs are in a directory of their version.
    postgresql) command -v initdb || ls /usr/lib/postgresql/*/bin/initdb ;;
    ca-certificates) [ -s /etc/ssl/certs/ca-certificates.crt ] ;;
    *) command -v "$1" ;;
  esac > /dev/null 2>&1
}

missing() {
  local p
  for p in "$@"; do present "$p" || echo "$p"; done
}

# Tools of the system live in sbin, which is not on everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin

need=$(missing "$@" | xargs)
[ -n "$need" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "missing: $need" >&2
  echo "On Debian or Ubuntu: sudo apt-get install $need" >&2
  exit 1
fi

echo "installing Debian packages: $need" >&2
export DEBIAN_FRONTEND=noninteractive
# A fresh machine has no package lists, a kept one may have old ones; somebody else's apt may hold the lock.
apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of names
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends $need; } > "$log" 2>&1 < /dev/null; then
  cat "$log" >&2
  echo "could not install: $need" >&2
  exit 1
fi

need=$(missing "$@" | xargs)
if [ -n "$need" ]; then
  echo "still missing after installing: $need" >&2
  exit 1
fi
