#!/usr/bin/env bash
# Loads compose.yaml with compose-go, the loader that Docker Compose itself uses: it knows every key and refuses all
# others. It starts no container and needs no Docker: Go compiles the loader into <cache>/tools (half a minute, once).
#
# Without Go it prints a clear notice that compose.yaml is not checked; on a build server (CI is set) it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VERSION=v2.16.2
readonly PACKAGE=github.com/compose-spec/compose-go/v2/cmd

if ! command -v go >/dev/null; then
  {
    echo "************************************************************************************************"
    echo "check-compose: missing: Go"
    echo "  NOT CHECKED without it: compose.yaml"
    echo "  remedy: on Debian and Ubuntu: apt install golang-go, or see go.dev/dl; 1.24 or newer"
    echo "************************************************************************************************"
  } >&2
  [[ -z ${CI:-} ]] || exit 1
  exit 0
fi

tools=${WALVEC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/walvec}/tools
program=$tools/compose-go-$VERSION
work=$(mkdir -p "$tools" && mktemp -d "$tools/.check-XXXXXX")
trap 'rm -rf "$work"' EXIT
if [[ ! -x $program ]]; then
  echo "Compiling compose-go $VERSION into $tools ..."
  GOBIN=$work go install "$PACKAGE@$VERSION" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    echo "check-compose: $PACKAGE@$VERSION cannot be installed" >&2
    echo "  remedy: check the network and Go's proxy setting (go env GOPROXY)" >&2
    exit 1
  }
  # The file appears by a rename, as the last step: if it exists, it is complete.
  mv "$work/cmd" "$program"
fi

load() { # FILE
  "$program" "$1" >"$work/out" 2>&1
}

# The loader's command-line program passes no variables on, so those that must be set are replaced.
sed -E 's/\$\{[A-Z_]+:\?[^}]*\}/checked/' compose.yaml >"$work/compose.yaml"
load "$work/compose.yaml" || {
  cat "$work/out" >&2
  echo >&2
  exit 1
}
# This tests that the check can fail: an unknown key is an error.
sed 's/^    image: qdrant/    imagine: true\n&/' "$work/compose.yaml" >"$work/wrong.yaml"
if load "$work/wrong.yaml" || ! grep -q imagine "$work/out"; then
  echo "check-compose: the loader accepts an unknown key; this check is of no use" >&2
  exit 1
fi
echo "compose.yaml is as compose-go $VERSION wants it"
