# shellcheck shell=bash
# Fetches jars from Maven Central into walvec's cache. scripts/fetch-kafka.sh and scripts/fetch-debezium.sh source this
# file. The caller sets PROGRAM, its own name, and UNTESTED, what cannot be tested without the jars.
#
# <cache> is $WALVEC_CACHE, else for root /var/cache/walvec, else $XDG_CACHE_HOME/walvec, else ~/.cache/walvec.

readonly OLDEST_JAVA=17

fail() {
  echo "$PROGRAM: $1" >&2
  echo "  remedy: $2" >&2
  exit 1
}

# Without Java or Maven every other test can run, so this prints a clear notice, and fails only on a build server (CI is
# set).
lacks() { # WHAT REMEDY
  {
    echo "************************************************************************************************"
    echo "$PROGRAM: missing: $1"
    echo "  NOT TESTED without it: $UNTESTED"
    echo "  remedy: $2"
    echo "************************************************************************************************"
  } >&2
  [[ -z ${CI:-} ]] || exit 1
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

check_java() { # PROGRAM PACKAGE
  local major
  command -v "$1" >/dev/null ||
    lacks "Java $OLDEST_JAVA or newer (the program $1)" "on Debian and Ubuntu: apt install $2 maven"
  # Takes "17" from: openjdk version "17.0.15" 2025-04-15, and from: javac 17.0.15
  major=$("$1" -version 2>&1 | sed -nE 's/^(.* version "|javac )([0-9]+).*/\2/p' | head -n 1)
  ((${major:-0} >= OLDEST_JAVA)) ||
    lacks "Java $OLDEST_JAVA or newer; this $1 is ${major:-of an unknown version}" \
      "on Debian and Ubuntu: apt install $2, and put it first in PATH"
}

# Prints a digest of the files from which the target directory is made.
digest() { # FILE...
  cat "$@" | sha256sum | cut -d ' ' -f 1
}

# Sets `target`, the directory for a version; succeeds if it is complete and up to date.
is_fetched() { # NAME VERSION DIGEST
  root=$(cache_directory)/$1
  target=$root/$2
  [[ -d $target/libs && $(cat "$target/digest" 2>/dev/null) == "$3" ]]
}

# Sets `work`, a directory that is removed at the end, and puts the jars of a pom.xml into its `new/libs`.
fetch_jars() { # POM
  command -v mvn >/dev/null || lacks "Maven (the program mvn), which fetches it" "on Debian and Ubuntu: apt install maven"
  (umask 022 && mkdir -p "$root") || fail "cannot create $root" "set WALVEC_CACHE to a writable directory"
  work=$(mktemp -d "$root/.fetch-XXXXXX") || fail "cannot write to $root" "check free space and permissions"
  trap 'rm -rf "$work"' EXIT
  # Even with -q Maven resets the terminal's colours.
  mvn -q -B -f "$1" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/new/libs" \
    >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "Maven could not fetch what $1 lists" "check the network and Maven's settings (mirrors)"
  }
}

# The directory appears by a rename, as the last step: if it exists, it is complete.
install_jars() { # DIGEST
  echo "$1" >"$work/new/digest"
  # Every user must be able to read the files, independently of the umask of the user who fetched them.
  chmod -R a+rX "$work/new"
  rm -rf "$target"
  mv "$work/new" "$target"
}
