#!/usr/bin/env bash
# Builds the packages of the demo's model: a wheel, an npm package and, where dpkg-deb is, a Debian package. The files come
# from where scripts/fetch-model.sh takes them, and are checked by it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

# The model stays there between calls; packages are built again.
"$root/scripts/fetch-model.sh" "$stage/models"
python=$(packaging_python)

contents() { # DIRECTORY
  cp -R "$stage/models" "$1/models"
  cp "$root/LICENSE" "$root"/packaging/model/{NOTICE,README.md} "$1"
}

project=$(fresh model-python)
contents "$project"
cp "$root/packaging/model/pyproject.toml" "$project"
(cd "$project" && "$python" -m hatchling build --target wheel)
cp "$project"/dist/*.whl "$dist"

if command -v npm >/dev/null; then
  project=$(fresh model-npm)
  contents "$project"
  sed "s/@MODEL_VERSION@/$model_version/" "$root/packaging/npm/model/package.json" >"$project/package.json"
  (cd "$project" && npm pack --silent --pack-destination "$dist" >/dev/null)
fi

command -v dpkg-deb >/dev/null || exit 0
package=$(fresh model-deb)
documents=$package/usr/share/doc/walvec-model-minilm
mkdir -p "$package/DEBIAN" "$package/usr/share/walvec" "$documents"
cp -R "$stage/models" "$package/usr/share/walvec/models"
cp "$root/packaging/debian/model.copyright" "$documents/copyright"
debian_changelog walvec-model-minilm "$model_version" "The embedding model of walvec's demo." >"$documents/changelog.gz"
sed "s/@MODEL_VERSION@/$model_version/; s/@SIZE@/$(du -sk "$package/usr" | cut -f 1)/" \
  "$root/packaging/debian/model.control" >"$package/DEBIAN/control"
chmod -R u=rwX,go=rX "$package"
(cd "$package" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums)
dpkg-deb --root-owner-group -Zxz --build "$package" "$dist" >/dev/null
