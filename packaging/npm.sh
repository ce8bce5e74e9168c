#!/usr/bin/env bash
# Builds the npm packages: `walvec`, which is a launcher, and the one with the program for this platform.
#
#   packaging/npm.sh PROGRAM SHARE
set -euo pipefail
. "$(dirname "$0")/common.sh"

program=$1 share=$2

pack() { # TEMPLATE DIRECTORY
  sed "s/@VERSION@/$version/; s/@MODEL_VERSION@/$model_version/; s/@SERVER@/$server_npm/; s/@PLATFORM@/$platform/;
    s/@OS@/${platform%-*}/; s/@CPU@/${platform#*-}/" "$root/packaging/npm/$1/package.json" >"$2/package.json"
  cp "$root/LICENSE" "$2"
  (cd "$2" && npm pack --silent --pack-destination "$dist" >/dev/null)
}

package=$(fresh npm-walvec)
cp -R "$root"/packaging/npm/walvec/{README.md,bin} "$package"
pack walvec "$package"

package=$(fresh "npm-$platform")
mkdir "$package/bin"
cp "$program" "$package/bin/walvec"
cp "$share/doc/walvec/THIRD-PARTY-LICENSES" "$package"
pack platform "$package"
