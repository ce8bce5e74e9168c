#!/usr/bin/env bash
# Builds every package that this machine can into dist/. packaging/README.md says what they are.
#
#   packaging/make-dist.sh            builds the program first (see packaging/program.sh)
#   packaging/make-dist.sh PROGRAM    packs a program that is there already; then there is no wheel of it
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

lacks() { # PROGRAM PACKAGES
  command -v "$1" >/dev/null && return 1
  echo "not built, because $1 is missing: $2" >&2
}

rm -rf "$dist"
mkdir -p "$dist"
if (($# > 0)); then
  program=$(realpath "$1")
else
  packaging/program.sh
  program=$stage/program/walvec
fi
packaging/share.sh "$program"
packaging/archive.sh "$program" "$stage/share/share"
packaging/model.sh
packaging/servers.sh
lacks npm "the npm packages" || packaging/npm.sh "$program" "$stage/share/share"
lacks dpkg-deb "the Debian packages" || packaging/deb.sh "$program" "$stage/share/share"

echo
echo "The program has $(($(wc -c <"$program") / 1000000)) MB. In dist/:"
(cd "$dist" && ls -l | awk 'NR > 1 { printf "%9.1f MB  %s\n", $5 / 1e6, $9 }')
