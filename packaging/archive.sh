#!/usr/bin/env bash
# Builds the archive that `cargo binstall walvec` installs, with the directories of a prefix, for example /usr/local.
# The key package.metadata.binstall in crates/walvec/Cargo.toml names the archive.
#
#   packaging/archive.sh PROGRAM SHARE
set -euo pipefail
. "$(dirname "$0")/common.sh"

name=walvec-$version-$target
contents=$(fresh archive)/$name
mkdir -p "$contents/bin"
cp "$1" "$contents/bin/walvec"
cp -R "$2" "$contents/share"
chmod -R u=rwX,go=rX "$contents"
tar -C "$stage/archive" -czf "$dist/$name.tar.gz" "$name"
