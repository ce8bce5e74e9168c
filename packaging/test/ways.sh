#!/usr/bin/env bash
# One way to install walvec and run the demo, in a temporary copy of a system that packaging/test/run.sh made. The packages
# are in /mnt/dist.
set -euo pipefail
shopt -s inherit_errexit

readonly LIMIT_SECONDS=60

# Runs a command as an ordinary user with an empty home directory.
as_user() { # COMMAND...
  useradd --create-home someone
  cd /home/someone
  setpriv --reuid=someone --regid=someone --init-groups env HOME=/home/someone "$@"
}

# The account that runs the server cannot read root's home, so here the server is copied.
pip() {
  "$PYTHON" -m venv /root/venv
  /root/venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links /mnt/dist 'walvec[demo]'
  installed
  /root/venv/bin/walvec demo --once --json
}

# An ordinary user's server is used in place.
uv() {
  as_user /mnt/tools/uvx --offline --no-index --find-links /mnt/dist --python /usr/bin/python3 \
    --from 'walvec[demo]' walvec demo --once --json
}

npm() {
  "$PYTHON" /mnt/test/registry.py /mnt/dist 4873 >/dev/null &
  until (exec 3<>/dev/tcp/127.0.0.1/4873) 2>/dev/null; do sleep 0.1; done
  as_user env npm_config_registry=http://127.0.0.1:4873/ npm_config_ignore_scripts=true \
    npx --yes walvec demo --once --json
}

deb() {
  dpkg --install /mnt/dist/*.deb >/dev/null
  man --where walvec-demo >/dev/null
  id walvec >/dev/null
  installed
  WALVEC_POSTGRES=/mnt/server walvec demo --once --json
}

archive() {
  tar -xzf /mnt/dist/walvec-*.tar.gz -C /usr/local --strip-components=1
  dpkg-deb -x /mnt/dist/walvec-model-minilm_*.deb /tmp/model
  cp -R /tmp/model/usr/share/walvec /usr/local/share/
  installed
  WALVEC_POSTGRES=/mnt/server walvec demo --once --json
}

began=$EPOCHREALTIME
seconds() {
  awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $began }"
}
installed() {
  echo "installed after $(seconds) s" >&2
}

answer=$("$1")
total=$(seconds)
grep -q '"rows":120,' <<<"$answer" || { echo "$1: no answer: $answer" >&2; exit 1; }
echo "the demo has answered after $total s: $(grep -o '"name":"[^"]*"' <<<"$answer" | head -n 1)"
awk "BEGIN { exit !($total <= $LIMIT_SECONDS) }" || { echo "$1: that is more than $LIMIT_SECONDS s" >&2; exit 1; }
