#!/usr/bin/env bash
# Checks the documents: every relative link leads to a file, and to a heading of it where it names one; README.md and ARCHITECTURE.md
# stay short; docs/README.md links every page in docs/, and the index of each folder in docs/ every page there. Files that the documents
# name by their whole path exist. Links to other sites are not followed.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files --cached --others --exclude-standard -- '*.md' llms.txt | python3 -c '
import collections, pathlib, re, sys, urllib.parse

WORDS = {"README.md": 1000, "ARCHITECTURE.md": 1500}
FENCE = re.compile(r"^ *(```+|~~~+)")
NAMED = re.compile(r"`((?:bench|crates|docs|packaging|scripts|tests)/[^`\s<>*]+)`")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")

def outside_code(text):
    """The lines with their numbers, without blocks and spans of code."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if found and fence is None:
            fence = found.group(1)
        elif found and found.group(1).startswith(fence):
            fence = None
        elif fence is None:
            yield number, line

def anchor(heading):
    """What GitHub makes of a heading: small letters, no punctuation, hyphens for blanks."""
    heading = LINK.sub(lambda link: link.group(0).split("](")[0].lstrip("!["), heading.strip())
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")

def anchors(text):
    seen = collections.Counter()
    for _, line in outside_code(text):
        if found := re.match(r"#{1,6}\s+(.*?)\s*#*$", line):
            name = anchor(found.group(1))
            yield name if seen[name] == 0 else f"{name}-{seen[name]}"
            seen[name] += 1

pages = {pathlib.PurePosixPath(line.strip()) for line in sys.stdin}
texts = {page: pathlib.Path(page).read_text(encoding="utf-8") for page in pages if pathlib.Path(page).is_file()}
root, wrong, linked, links = pathlib.Path.cwd().resolve(), [], set(), 0
for page, text in sorted(texts.items()):
    for number, line in outside_code(text):
        # The changelog also names files that no longer exist.
        for named in NAMED.findall(line) if page.name != "CHANGELOG.md" else []:
            if not pathlib.Path(named).exists():
                wrong.append(f"{page}:{number}: there is no {named}")
        for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if urllib.parse.urlsplit(target).scheme:
                continue
            links += 1
            path, _, fragment = urllib.parse.unquote(target).partition("#")
            file = (pathlib.Path(page.parent, path) if path else pathlib.Path(page)).resolve()
            if not file.exists() or not file.is_relative_to(root):
                wrong.append(f"{page}:{number}: there is no {path}")
                continue
            found = pathlib.PurePosixPath(file.relative_to(root))
            linked.add((page, found))
            if fragment and found in texts and fragment not in set(anchors(texts[found])):
                wrong.append(f"{page}:{number}: {found} has no heading #{fragment}")

words = {name: len(texts[pathlib.PurePosixPath(name)].split()) for name in WORDS}
for name, most in WORDS.items():
    if words[name] > most:
        wrong.append(f"{name}: {words[name]} words, at most {most}; move something to docs/")
docs = pathlib.PurePosixPath("docs")
for page in sorted(texts):
    index = page.parent / "README.md"
    if page == index:
        index = page.parent.parent / "README.md"
    if docs in index.parents and (index, page) not in linked:
        wrong.append(f"{index}: does not link {page}")
short = ", ".join(f"{name} has {count} words" for name, count in words.items())
print("\n".join(wrong) or f"{len(texts)} documents: {links} relative links lead somewhere; {short}")
sys.exit(bool(wrong))
'

# Every test that the documents name exists. Names of tests are sentences: five words or more.
missing=$(grep -ohE '`[a-z0-9]+(_[a-z0-9]+){4,}`' ARCHITECTURE.md RELIABILITY.md docs/promises.md docs/design/*.md | tr -d '`' | sort -u |
    grep -vxFf <(git grep -hoE 'fn [a-z0-9_]+' -- '*.rs' | awk '{print $2}' | sort -u) || true)
if [[ -n $missing ]]; then
    echo "There is no test of this name:"
    echo "$missing"
    exit 1
fi
