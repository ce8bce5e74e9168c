#!/usr/bin/env bash
# Runs Debezium's engine on a PostgreSQL database, and writes, sends or counts its records; without arguments it says how.
#
#   scripts/debezium-recorder.sh record --url postgres://user:password@127.0.0.1:5432/db --state DIRECTORY ...
#
# It logs warnings; DEBEZIUM_LOG=info says more.
set -euo pipefail

"$(dirname "$0")/fetch-debezium.sh" >&2
PROGRAM=debezium-recorder
UNTESTED="what compares walvec with Debezium itself"
. "$(dirname "$0")/maven.sh"

version=$(sed -nE '/debezium-embedded/,/<version>/ s/ *<version>(.*)<\/version>/\1/p' \
  "$(dirname "$0")/../tests/kafka/debezium/pom.xml")
target=$(cache_directory)/debezium/$version
[[ -d $target/classes ]] || fail "Debezium is not there" "do what was said above"
# The process itself, so that a signal to this script reaches it.
exec java -Xmx1g -Dorg.slf4j.simpleLogger.defaultLogLevel=${DEBEZIUM_LOG:-warn} -cp "$target/classes:$target/libs/*" Recorder "$@"
