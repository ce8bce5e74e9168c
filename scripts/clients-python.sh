#!/usr/bin/env bash
# Prints the path of a Python that has the libraries of a requirements file. It is in a virtual environment outside the
# checkout, which is created again when the requirements change.
#
#   scripts/clients-python.sh tests/clients/requirements.txt
#
# With --installed it installs nothing, and fails if there is no such environment.
set -euo pipefail

installed=
if [[ $1 == --installed ]]; then
  installed=1
  shift
fi
requirements=$1
digest=$(sha256sum "$requirements" | cut -c 1-12)
environment=${XDG_CACHE_HOME:-$HOME/.cache}/walvec/clients/$digest

if [[ ! -f $environment/complete ]]; then
  [[ -z $installed ]] || exit 1
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "clients-python: Python 3.10 or newer is needed, this is $(python3 --version)" >&2
    exit 1
  }
  echo "Installing the libraries of $requirements into $environment ..." >&2
  rm -rf "$environment"
  python3 -m venv "$environment" || {
    echo "clients-python: no virtual environment could be made" >&2
    echo "  remedy: on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  }
  "$environment/bin/python" -m pip install --disable-pip-version-check --quiet --only-binary=:all: \
    --requirement "$requirements" >&2
  touch "$environment/complete"
fi
echo "$environment/bin/python"
