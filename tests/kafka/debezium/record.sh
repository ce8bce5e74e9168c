#!/usr/bin/env bash
# Records the records that Debezium writes for books.sql and changes.sql, with a temporary PostgreSQL 18:
#
#   tests/kafka/debezium/record.sh DIRECTORY
#
# makes debezium-engine-<version>-plain.jsonl and debezium-engine-<version>-schema.jsonl in DIRECTORY, once without and
# once with {"schema", "payload"} around keys and values.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
scripts=$here/../../../scripts
target=$(mkdir -p "$1" && cd "$1" && pwd)
readonly PORT=${PORT:-15499}
readonly LAST=public.books.*'"The last"'

PROGRAM=record
UNTESTED="nothing"
. "$scripts/maven.sh"
"$scripts/fetch-postgres.sh" 18
bin=$(cache_directory)/postgres/18/bin
version=$(sed -nE '/debezium-embedded/,/<version>/ s/ *<version>(.*)\.Final<\/version>/\1/p' "$here/pom.xml")

work=$(mktemp -d)
recorder=
# PostgreSQL refuses to run as root.
as_user() {
  if ((EUID == 0)); then setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; else "$@"; fi
}
end() {
  if [[ -n $recorder ]]; then kill "$recorder" 2>/dev/null || true; fi
  as_user "$bin/pg_ctl" stop -s -D "$work/data" -m immediate 2>/dev/null || true
  rm -rf "$work"
}
trap end EXIT
if ((EUID == 0)); then chown nobody "$work"; fi
cd "$work"
as_user "$bin/initdb" -D "$work/data" -U postgres -A trust --locale=C.UTF-8 >/dev/null
as_user "$bin/pg_ctl" start -s -w -D "$work/data" -l "$work/postgres.log" \
  -o "-p $PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c wal_level=logical -c timezone=UTC"

# Returns when a line of the file matches the pattern.
wait_for() { # FILE PATTERN
  until grep -q "$2" "$1" 2>/dev/null; do
    kill -0 "$recorder" || fail "the recorder has ended" "see $work/recorder.log"
    sleep 0.2
  done
}

record() { # NAME [OPTION...]
  local name=$1 file=$work/$1.jsonl
  shift
  "$bin/psql" -qX -h 127.0.0.1 -p "$PORT" -U postgres -c "CREATE DATABASE \"$name\""
  local url=postgres://postgres:postgres@127.0.0.1:$PORT/$name
  "$bin/psql" -qX -v ON_ERROR_STOP=1 -d "$url" -f "$here/books.sql"
  "$scripts/debezium-recorder.sh" record --url "$url" --state "$work/state-$name" --slot "$name" --output "$file" \
    -P skipped.operations=none --tables public.books,public.shelves "$@" >"$work/recorder.log" 2>&1 &
  recorder=$!
  # The stream must have begun: otherwise the last rows of the snapshot could not be distinguished from the first
  # changes.
  until [[ $("$bin/psql" -qXAt -d "$url" -c "SELECT active FROM pg_replication_slots WHERE slot_name = '$name'") == t ]] &&
    [[ $(grep -c '"op":"r"' "$file" 2>/dev/null) == 3 ]]; do
    kill -0 "$recorder" || { cat "$work/recorder.log" >&2 && fail "the recorder has ended" "see above"; }
    sleep 0.2
  done
  "$bin/psql" -qX -v ON_ERROR_STOP=1 -d "$url" -f "$here/changes.sql" >/dev/null
  wait_for "$file" "$LAST"
  kill -TERM "$recorder"
  wait "$recorder" || true
  recorder=
  cp "$file" "$target/debezium-engine-$version-$name.jsonl"
  echo "$(wc -l <"$file") records are in $target/debezium-engine-$version-$name.jsonl"
}

record plain
record schema --schemas
