#!/usr/bin/env bash
# Builds the Debian package of the program with cargo-deb; package.metadata.deb in crates/walvec/Cargo.toml says what is in it.
#
#   packaging/deb.sh PROGRAM SHARE
set -euo pipefail
. "$(dirname "$0")/common.sh"

readonly CARGO_DEB=3.8.0

tool=${WALVEC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/walvec}/tools/cargo-deb-$CARGO_DEB
if [[ ! -x $tool/bin/cargo-deb ]]; then
  echo "Compiling cargo-deb $CARGO_DEB into $tool (2 minutes, once) ..."
  cargo install --quiet --locked cargo-deb --version "$CARGO_DEB" --root "$tool"
fi

# cargo-deb takes files from here for the paths below target/release that the manifest names.
made=$(fresh deb)/release
mkdir "$made"
cp "$1" "$made/walvec"
cp -R "$2" "$made/share"
gzip -9n "$made"/share/doc/walvec/{CHANGELOG.md,THIRD-PARTY-LICENSES} "$made"/share/man/man1/*
news="Release $version; NEWS.gz in this directory says what is new."
debian_changelog walvec "$version" "$news" >"$made/changelog.gz"
CARGO_TARGET_DIR=$stage/deb "$tool/bin/cargo-deb" --quiet --no-build --no-strip --profile release \
  --manifest-path "$root/crates/walvec/Cargo.toml" --output "$dist"
