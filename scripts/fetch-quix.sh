#!/usr/bin/env bash
# Fetches Quix Streams, the library of the tutorial's programs, for the tests of other programs at walvec's topics
# (tests/quix; 130 MB in a virtual environment, once).
#
# If Python or pip is missing, it prints what stays untested, and succeeds; on a build server (CI is set) it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/clients-python.sh tests/quix/requirements.txt >/dev/null || {
  {
    echo "************************************************************************************************"
    echo "fetch-quix: Quix Streams is not there"
    echo "  NOT TESTED without it: whether programs that use Quix Streams read and write walvec's topics"
    echo "  remedy: do what was said above; it needs Python 3.10 or newer, pip, and access to a package index"
    echo "************************************************************************************************"
  } >&2
  [[ -z ${CI:-} ]] || exit 1
}
