#!/usr/bin/env bash
# Builds the program and its Python wheel. Every other package takes the program out of that wheel.
#
# On Linux the C compiler and the linker are Zig's, so that the program runs with any glibc from 2.28 on.
set -euo pipefail
. "$(dirname "$0")/common.sh"

readonly GLIBC=2.28

python=$(packaging_python)
PATH=$(dirname "$python"):$PATH
project=$(fresh python)
cp "$root"/packaging/python/* "$root/LICENSE" "$project"
"$root/packaging/licenses.py" "$target" kafka-tls >"$project/THIRD-PARTY-LICENSES"
sed -i.in "s|^manifest-path = .*|manifest-path = \"$root/crates/walvec/Cargo.toml\"|" "$project/pyproject.toml"
rm "$project/pyproject.toml.in"

options=(--out "$dist")
if [[ $target == *-linux-gnu ]]; then
  options+=(--zig --compatibility "manylinux_${GLIBC/./_}")
  export ZIG_PYTHON=$python ZIG_TARGET=${target/-unknown/}.$GLIBC
  export CC=$root/packaging/zig/cc CXX=$root/packaging/zig/c++
  # librdkafka's build also links a shared library, which is not used, from a list of symbols that do not all exist.
  export LDFLAGS=-Wl,--undefined-version
else
  export MACOSX_DEPLOYMENT_TARGET=11.0
fi
rm -f "$dist"/walvec-*.whl
(cd "$project" && maturin build "${options[@]}")

wheels=("$dist/walvec-$version"-*.whl)
program=$(fresh program)/walvec
"$python" - "${wheels[0]}" "walvec-$version.data/scripts/walvec" "$program" <<'PY'
import pathlib, sys, zipfile

wheel, member, program = sys.argv[1:]
pathlib.Path(program).write_bytes(zipfile.ZipFile(wheel).read(member))
PY
chmod 755 "$program"
"$program" --version
