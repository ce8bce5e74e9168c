#!/usr/bin/env bash
# Runs Debezium's engine on a PostgreSQL database, and writes, sends or counts its records; without arguments it prints
# its usage.
#
#   scripts/debezium-recorder.sh record --url postgres://user:password@127.0.0.1:5432/db --state DIRECTORY ...
#
# It logs warnings; with DEBEZIUM_LOG=info it logs more.
set -euo pipefail

"$(dirname "$0")/fetch-debezium.sh" >&2
PROGRAM=debezium-recorder
UNTESTED="what compares walvec with Debezium itself"
. "$(dirname "$0")/maven.sh"

version=$(sed -nE '/debezium-embedded/,/<version>/ s/ *<version>(.*)<\/version>/\1/p' \
  "$(dirname "$0")/../tests/kafka/debezium/pom.xml")
target=$(cache_directory)/debezium/$version
[[ -d $target/classes ]] || fail "Debezium is not there" "do what was said above"
# Java replaces the shell, so that a signal to this script reaches it.
exec java -Xmx1g -Dorg.slf4j.simpleLogger.defaultLogLevel=${DEBEZIUM_LOG:-warn} -cp "$target/classes:$target/libs/*" Recorder "$@"
