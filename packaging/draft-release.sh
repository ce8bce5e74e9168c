#!/usr/bin/env bash
# Makes a draft release of the files in dist/ that are walvec's own, with their digests. Uses GitHub's program gh.
#
#   packaging/draft-release.sh TAG
set -euo pipefail
cd "$(dirname "$0")/../dist"

# Files that others published are left out: servers, and the packages that the Python package of one requires.
files=(walvec*)
sha256sum "${files[@]}" >SHA256SUMS
gh release create "$1" --draft --verify-tag --title "$1" --notes "What is new: CHANGELOG.md" "${files[@]}" SHA256SUMS
