#!/usr/bin/env bash
# Fetches Debezium's engine from Maven Central (40 MB, once) and compiles tests/kafka/debezium/Recorder.java with it, which
# makes the fixtures of crates/broker and the figures to compare with. They go to <cache>/debezium/<version>
# (scripts/maven.sh says what <cache> is); scripts/debezium-recorder.sh runs it.
#
# If a JDK or Maven is missing, it prints what stays untested, and succeeds; on a build server (CI is set) it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

PROGRAM=fetch-debezium
UNTESTED="what compares walvec with Debezium itself; recorded records of Debezium are read all the same"
. scripts/maven.sh

readonly POM=tests/kafka/debezium/pom.xml SOURCE=tests/kafka/debezium/Recorder.java
version=$(sed -nE '/debezium-embedded/,/<version>/ s/ *<version>(.*)<\/version>/\1/p' "$POM")

check_java javac openjdk-17-jdk-headless
digest=$(digest "$POM" "$SOURCE")
if is_fetched debezium "$version" "$digest"; then
  echo "Debezium $version is already in $target"
  exit
fi
echo "Fetching Debezium $version (40 MB) into $target ..."
fetch_jars "$POM"
javac --release "$OLDEST_JAVA" -d "$work/new/classes" -cp "$work/new/libs/*" "$SOURCE" ||
  fail "$SOURCE does not compile" "correct it"
install_jars "$digest"
echo "Debezium $version is in $target"
