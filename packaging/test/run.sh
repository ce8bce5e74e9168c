#!/usr/bin/env bash
# Installs what `make dist` built, each way into a temporary copy of this system, and runs the demo there.
#
#   packaging/test/run.sh [WAY...]      pip uv npm deb archive; without arguments all of them
#
# A copy is this system under an overlay in memory, without a network, without the users' directories and caches, and without
# PostgreSQL except for Debian's package. Only root can make a copy.
set -euo pipefail
cd "$(dirname "$0")"
. ../common.sh

readonly WAYS=(pip uv npm deb archive)
# The time limit from the command that installs to the demo's answer.
readonly LIMIT_SECONDS=60

[[ $(uname -s) == Linux ]] || fail "only Linux has the overlays that this needs" "try a package by hand"
((EUID == 0)) || fail "only root can make a temporary copy of the system" "sudo make test-dist"
[[ -d $dist ]] || fail "there is no $dist" "make dist"
ls "$dist"/walvec-*.whl >/dev/null 2>&1 || fail "$dist has no wheel of the program" "make dist"

python_prefix=$(python3 -c 'import sys; print(sys.base_prefix)')
tools=$(dirname "$("$root/scripts/clients-python.sh" "$root/packaging/test/requirements.txt")")
# A server for Debian's package, which leaves PostgreSQL to the system.
server=$("$root/scripts/fetch-postgres.sh" default | sed -nE 's#.* in (/.*)/bin$#\1#p')

# Runs in a mount, network and process namespace of its own, which ends with it.
in_a_copy() { # WAY
  local copy=$work/copy hidden
  mount -t tmpfs tmpfs "$work"
  mkdir -p "$work"/{upper,scratch} "$copy"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$copy"
  for hidden in /root /home /tmp /var/cache/walvec /usr/lib/postgresql; do
    [[ ! -d $copy$hidden ]] || mount -t tmpfs -o "mode=$(stat -c %a "$copy$hidden")" tmpfs "$copy$hidden"
  done
  mkdir -p "$copy"/mnt/{dist,test,tools,server} "$copy$python_prefix"
  bind "$dist" /mnt/dist
  bind "$PWD" /mnt/test
  bind "$tools" /mnt/tools
  bind "$server" /mnt/server
  bind "$python_prefix" "$python_prefix"
  mount -t proc proc "$copy/proc"
  mount --rbind /dev "$copy/dev"
  ip link set lo up
  exec chroot "$copy" env -i HOME=/root LANG=C.UTF-8 PYTHON="$python_prefix/bin/python3" \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash /mnt/test/ways.sh "$1"
}

bind() { # DIRECTORY PLACE
  mount --bind "$1" "$work/copy$2"
}

if [[ ${1:-} == --in-a-copy ]]; then
  work=$3 in_a_copy "$2"
fi

check_debian_packages() {
  if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error,warning "$dist"/*.deb
  else
    echo "not checked by lintian, which is not installed: the Debian packages" >&2
  fi
}

work=$(mktemp -d)
trap 'rmdir "$work"' EXIT
failed=0
for way in "${@:-${WAYS[@]}}"; do
  echo "== $way"
  [[ $way != deb ]] || check_debian_packages || failed=1
  timeout $((2 * LIMIT_SECONDS)) unshare --mount --net --pid --fork --kill-child ./run.sh --in-a-copy "$way" "$work" || failed=1
done
exit "$failed"
