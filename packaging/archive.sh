#!/usr/bin/env bash
# Builds the archive that `cargo binstall walvec` takes, laid out as below a prefix such as /usr/local; the key
# package.metadata.binstall in crates/walvec/Cargo.toml names it.
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
