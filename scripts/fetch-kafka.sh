#!/usr/bin/env bash
# Fetches Apache Kafka for the tests: the broker's own jars from Maven Central (about 60 MB, once), no root needed.
#
# They go to <cache>/kafka/<version>/libs, where tests/kafka finds them by itself. <cache> is $WALVEC_CACHE, else for root
# /var/cache/walvec, else $XDG_CACHE_HOME/walvec, else ~/.cache/walvec.
#
# A machine without Java or Maven can still run every other test: then this says loudly what stays untested, and ends
# well, except on a build server (CI is set).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly POM=tests/kafka/pom.xml
readonly OLDEST_JAVA=17

fail() {
  echo "fetch-kafka: $1" >&2
  echo "  remedy: $2" >&2
  exit 1
}

lacks() { # WHAT REMEDY
  {
    echo "************************************************************************************************"
    echo "fetch-kafka: missing: $1"
    echo "  NOT TESTED without it: everything that goes through a Kafka broker (tests/kafka, and the"
    echo "  broker's parts of crates/broker and tests/e2e); those tests say SKIPPED."
    echo "  remedy: $2"
    echo "************************************************************************************************"
  } >&2
  if [[ -n ${CI:-} ]]; then exit 1; fi
  exit 0
}

cache_directory() {
  if [[ -n ${WALVEC_CACHE:-} ]]; then
    echo "$WALVEC_CACHE"
  elif ((EUID == 0)); then
    echo /var/cache/walvec
  else
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/walvec"
  fi
}

# "17" of: openjdk version "17.0.15" 2025-04-15
java_major() {
  java -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p' | head -n 1
}

command -v java >/dev/null ||
  lacks "Java $OLDEST_JAVA or newer" "on Debian and Ubuntu: apt install openjdk-17-jre-headless maven"
found=$(java_major)
((${found:-0} >= OLDEST_JAVA)) ||
  lacks "Java $OLDEST_JAVA or newer; this is ${found:-of an unknown version}" \
    "on Debian and Ubuntu: apt install openjdk-17-jre-headless, and put it first in PATH"

version=$(sed -nE '/kafka_2.13/,/<version>/ s/ *<version>(.*)<\/version>/\1/p' "$POM")
root=$(cache_directory)/kafka
target=$root/$version
digest=$(sha256sum "$POM" | cut -d ' ' -f 1)

# The directory appears by a rename, as the last step: if it is there, it is whole. It is of use for as long as the list
# of what it should hold is the same.
if [[ -d $target/libs && $(cat "$target/pom.sha256" 2>/dev/null) == "$digest" ]]; then
  echo "Apache Kafka $version is already in $target/libs"
  exit
fi
command -v mvn >/dev/null || lacks "Maven (mvn), which fetches the broker" "on Debian and Ubuntu: apt install maven"

(umask 022 && mkdir -p "$root") || fail "cannot create $root" "set WALVEC_CACHE to a writable directory"
work=$(mktemp -d "$root/.fetch-XXXXXX") || fail "cannot write to $root" "check free space and permissions"
trap 'rm -rf "$work"' EXIT
echo "Fetching Apache Kafka $version (60 MB) into $target ..."
mvn -q -B -Dstyle.color=never -f "$POM" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/server/libs" ||
  fail "Maven could not fetch org.apache.kafka:kafka_2.13:$version" "check the network and Maven's settings (mirrors)"
echo "$digest" >"$work/server/pom.sha256"
# Whoever fetched it, and with whatever umask.
chmod -R a+rX "$work/server"
rm -rf "$target"
mv "$work/server" "$target"
echo "Apache Kafka $version is in $target/libs"
