#!/usr/bin/env bash
# Fetches Apache Kafka for the tests: the broker's jars from Maven Central (60 MB, once), no root needed. They go to
# <cache>/kafka/<version>/libs, where tests/kafka finds them (scripts/maven.sh says what <cache> is).
#
# If Java or Maven is missing, it prints what stays untested, and succeeds; on a build server (CI is set) it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

PROGRAM=fetch-kafka
UNTESTED="everything that goes through a Kafka broker; those tests say SKIPPED"
. scripts/maven.sh

readonly POM=tests/kafka/pom.xml
version=$(sed -nE '/kafka_2.13/,/<version>/ s/ *<version>(.*)<\/version>/\1/p' "$POM")

check_java java openjdk-17-jre-headless
digest=$(digest "$POM")
if is_fetched kafka "$version" "$digest"; then
  echo "Apache Kafka $version is already in $target/libs"
  exit
fi
echo "Fetching Apache Kafka $version (60 MB) into $target ..."
fetch_jars "$POM"
install_jars "$digest"
echo "Apache Kafka $version is in $target/libs"
