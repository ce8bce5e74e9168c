#!/usr/bin/env bash
# Counts the packages that a build of the program compiles, each once.
#
#   scripts/count-packages.sh            prints how many there are, with all default features and with none
#   scripts/count-packages.sh LIMIT      also fails if there are more with the default features
set -euo pipefail
cd "$(dirname "$0")/.."

packages() {
  cargo tree --locked -p walvec -e normal,build --prefix none "$@" | sed 's/ (\*)$//' | sort -u | wc -l
}

all=$(packages)
echo "Packages: $all with all default features, $(packages --no-default-features) without."
if ((all > ${1:-all})); then
  echo "count-packages: at most $1 are wanted, because building them is what people wait for" >&2
  echo "  remedy: cargo tree -p walvec -e normal,build --prefix none, before and after the change, shows the new ones" >&2
  exit 1
fi
