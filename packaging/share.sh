#!/usr/bin/env bash
# Puts together the files that packages hold in addition to the program, with the directories of a prefix, for example
# /usr: manual pages, completions for shells, documentation.
#
#   packaging/share.sh PROGRAM
set -euo pipefail
. "$(dirname "$0")/common.sh"

program=$1
share=$(fresh share)/share
documents=$share/doc/walvec
mkdir -p "$share"/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d} "$documents/examples"
"$program" man --dir "$share/man/man1"
"$program" completions bash >"$share/bash-completion/completions/walvec"
"$program" completions zsh >"$share/zsh/site-functions/_walvec"
"$program" completions fish >"$share/fish/vendor_completions.d/walvec.fish"
cp "$root/LICENSE" "$root/CHANGELOG.md" "$documents"
cp "$root/walvec.example.yaml" "$documents/examples/walvec.yaml"
"$root/packaging/licenses.py" "$target" kafka-tls >"$documents/THIRD-PARTY-LICENSES"
