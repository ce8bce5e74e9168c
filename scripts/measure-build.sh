#!/usr/bin/env bash
# Measures what building costs when only the sources are downloaded, and prints the table for BENCHMARKS.md.
#
#   scripts/measure-build.sh              the dev build of `make demo`, the smallest release build, and the full one
#   scripts/measure-build.sh dev small    only these
#
# Every build goes into a directory of its own, which is removed. It measures CPU-minutes, which depend little on the number
# of cores and on other work.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo fetch --locked --quiet

measure() { # NAME CARGO-ARGUMENTS
  local name=$1 size
  shift
  TIMEFORMAT='%R %U %S'
  { time CARGO_TARGET_DIR=$work/$name cargo build --locked --quiet -p walvec "$@" 2>"$work/errors"; } 2>"$work/times" || {
    cat "$work/errors" >&2
    exit 1
  }
  size=$(strip -o "$work/stripped" "$(find "$work/$name" -maxdepth 2 -name walvec -type f)" && wc -c <"$work/stripped")
  awk -v name="$name" -v options="$*" -v size="$size" \
    '{ printf "| %s | `cargo build -p walvec %s` | %.1f | %.1f | %.0f MB |\n", name, options, ($2 + $3) / 60, $1 / 60, size / 1e6 }' \
    "$work/times"
  rm -rf "${work:?}/$name"
}

echo "| build | | CPU-minutes | minutes | stripped |"
echo "|---|---|---|---|---|"
(($# > 0)) || set -- dev small release
for build in "$@"; do
  case $build in
  dev) measure dev ;;
  small) measure small --release --no-default-features ;;
  release) measure release --release --features kafka-tls ;;
  *) echo "measure-build: there is no build \"$build\"; name some of: dev small release" >&2 && exit 2 ;;
  esac
done
echo
scripts/count-packages.sh
