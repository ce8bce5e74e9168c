#!/usr/bin/env python3
"""Prints the licences of everything that is compiled into the program, for the packages that hand it out.

    packaging/licenses.py TARGET FEATURE...

Each text is printed once, below the list of the packages that come with it. C libraries that crates bring along are found
in subdirectories of those crates.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys

NAMES = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
# How deep the licence files of C libraries are: rdkafka-sys/librdkafka/LICENSE, libz-sys/src/zlib/LICENSE.
DEPTH = 3
SKIPPED = {"test", "tests", "doc", "docs", "examples", "benches", "fuzz"}
# Endings of files with such names that are not licences but code.
CODE = {".c", ".h", ".html", ".json", ".py", ".rs", ".sh", ".toml"}


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(target, features):
    """Names and versions of the packages that the program is made from."""
    listed = cargo(
        "tree", "--locked", "--package", "walvec", "--features", ",".join(features), "--target", target,
        "--edges", "normal,build", "--prefix", "none", "--format", "{p}",
    )
    return {tuple(line.split()[:2]) for line in listed.splitlines()}


def licence_files(directory):
    for path in sorted(directory.rglob("*")):
        inner = path.relative_to(directory).parts
        if len(inner) <= DEPTH and not SKIPPED.intersection(inner) and NAMES.match(path.name) and path.is_file():
            if path.suffix not in CODE:
                yield path


def main():
    target, *features = sys.argv[1:]
    wanted = linked(target, features)
    metadata = cargo("metadata", "--locked", "--all-features", "--format-version", "1", "--filter-platform", target)
    packages = json.loads(metadata)["packages"]
    texts = {}
    by_text = collections.defaultdict(list)
    without = []
    for package in sorted(packages, key=lambda package: (package["name"], package["version"])):
        # Packages without a source are walvec's own.
        if (package["name"], "v" + package["version"]) not in wanted or package["source"] is None:
            continue
        title = f'{package["name"]} {package["version"]} ({package["license"] or "see the text"})'
        files = list(licence_files(pathlib.Path(package["manifest_path"]).parent))
        for path in files:
            text = path.read_text(encoding="utf-8", errors="replace").strip("\n")
            # Many licences differ only in line breaks.
            words = " ".join(text.split())
            texts.setdefault(words, text)
            if title not in by_text[words]:
                by_text[words].append(title)
        if not files:
            without.append(title)
    print("walvec is licensed under the Apache License, Version 2.0. The program contains what is listed here.")
    for words, titles in sorted(by_text.items(), key=lambda entry: entry[1]):
        print("\n" + "=" * 100)
        print("\n".join(titles) + "\n" + "-" * 100 + "\n" + texts[words])
    print("\n" + "=" * 100 + "\nThese come without a text of their own, under the licences named:")
    print("\n".join(without))


main()
