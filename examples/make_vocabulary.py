"""Make the shipped vocabulary from a list of concepts and WordNet's synonyms.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    python examples/make_vocabulary.py wordnet/usr/share/wordnet

Reads vocabulary_seed.txt, the tree of concepts, beside this script. For each name it looks up the
most frequent sense of the kinds that its branch allows. Words with this sense and hardly another
become synonyms if vocabulary_synonyms.txt has them. A name with a more frequent sense of another
kind gets a description. vocabulary_descriptions.txt adds descriptions and negatives. Writes
twotower/tagging/vocabulary.txt, which has WordNet's licence beside it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from recipes.twotower_small.wordnet import Sense, WordNet
from twotower.tagging.formats import format_vocabulary, parse_vocabulary
from twotower.tagging.vocabulary import SHIPPED_FILE, Tag, Vocabulary

SEED = Path(__file__).with_name("vocabulary_seed.txt")
MAX_SYNONYMS = 2
KINDS = ("animal", "plant", "food")
# WordNet contains words that nobody uses ("battercake"), so its synonyms are selected by hand.
SYNONYMS = SEED.with_name("vocabulary_synonyms.txt")
HEADER = """\
# The vocabulary that `twotower tag` uses unless it is given another: made by
# examples/make_vocabulary.py from examples/vocabulary_seed.txt, with synonyms from WordNet 3.0,
# Copyright 2006 by Princeton University (LICENSE-WORDNET.txt). The format: docs/tagging.md.
"""


class Entry(NamedTuple):
    """A line of the seed, or a leaf of one."""

    path: tuple[str, ...]
    text: str  # the name of the tag with its marks
    hypernym: str  # the name of its kind; empty below a heading
    kinds: tuple[str, ...]  # domains of WordNet


def main() -> None:
    wordnet = WordNet(Path(sys.argv[1]))
    synonyms = read_words(SYNONYMS.read_text(encoding="utf-8"))
    entries = list(read_seed(SEED.read_text(encoding="utf-8")))
    descriptions_of = read_descriptions(SEED.with_name("vocabulary_descriptions.txt"))
    names = Counter(name.casefold() for entry in entries for name in all_names(entry.text))
    repeated = [name for name, count in names.items() if count > 1]
    assert not repeated, f"names that occur twice: {repeated}"
    tags = []
    for entry in entries:
        tag = make_tag(entry, wordnet, names, synonyms)
        extra = descriptions_of.pop(str(tag), ([], [], None))
        descriptions = (*(tag.descriptions if not extra[0] else ()), *extra[0])
        tags.append(
            Tag(
                tag.path,
                tag.synonyms,
                descriptions,
                tuple(extra[1]),
                tag.heading,
                tag.exclusive,
                extra[2],
            )
        )
    assert not descriptions_of, f"no such tags: {list(descriptions_of)}"
    text = HEADER + format_vocabulary(Vocabulary(tuple(tags)))
    assert parse_vocabulary(text).tags == tuple(tags)
    SHIPPED_FILE.write_text(text, encoding="utf-8")
    leaves = [tag for tag in tags if not tag.heading]
    print(f"{len(leaves)} tags, {sum(len(tag.synonyms) for tag in leaves)} synonyms")


def read_seed(text: str) -> Iterator[Entry]:
    """Yield each branch, followed by its leaves."""
    parents: list[tuple[int, Entry]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        depth = len(line) - len(line.lstrip())
        while parents and parents[-1][0] >= depth:
            parents.pop()
        branch, _, leaves = line.strip().partition(":")
        branch, _, kinds = branch.partition(" @")
        parent = parents[-1][1] if parents else Entry((), "[]", "", ())
        entry = Entry(
            (*parent.path, strip_marks(branch)),
            branch.strip(),
            hypernym_below(parent),
            tuple(f"noun.{kind.strip()}" for kind in kinds.split(",")) if kinds else parent.kinds,
        )
        yield entry
        parents.append((depth, entry))
        for leaf in re.split(r", (?![^{]*\})", leaves) if leaves.strip() else []:
            path = (*entry.path, strip_marks(leaf))
            yield Entry(path, leaf.strip(), hypernym_below(entry), entry.kinds)


def hypernym_below(parent: Entry) -> str:
    """Return the name of a branch if it is a hypernym, as for living things and food."""
    heading = parent.text.startswith("[") or "(one)" in parent.text
    return "" if heading or parent.path[0] not in KINDS else parent.path[-1]


def read_words(text: str) -> set[str]:
    """Return the words of a list with comments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {word.strip().casefold() for line in lines for word in line.split(",")}


def read_descriptions(path: Path) -> dict[str, tuple[list[str], list[str], str | None]]:
    """Return descriptions, negatives and the detector by path; the format is a vocabulary's."""
    entries: dict[str, tuple[list[str], list[str], str | None]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        mark, value = line.strip()[:1], line.strip()[1:].strip()
        if not mark or mark == "#":
            continue
        if not line[0].isspace():
            name = line.strip()
            entries[name] = ([], [], None)
        elif mark == "@":
            entries[name] = (*entries[name][:2], value)
        else:
            entries[name][0 if mark == "+" else 1].append(value)
    return entries


def strip_marks(text: str) -> str:
    """Return the name without marks, braces and brackets."""
    return re.sub(r"\{.*\}|\(one\)|[\[\]]", "", text).strip()


def all_names(text: str) -> list[str]:
    """Return a name and the synonyms in its braces; none for a heading."""
    if text.startswith("[") or "(one)" in text:
        return []
    return [strip_marks(text), *seed_synonyms(text)]


def seed_synonyms(text: str) -> list[str]:
    braces = re.findall(r"\{(.*?)\}", text)
    return [name.strip() for names in braces for name in names.split(",")]


def make_tag(entry: Entry, wordnet: WordNet, names: Counter[str], selected: set[str]) -> Tag:
    """Make the tag of a line.

    Args:
        names: names and synonyms of all tags; new synonyms are added.
        selected: synonyms that may be used.
    """
    exclusive = "(one)" in entry.text
    if exclusive or entry.text.startswith("["):
        return Tag(entry.path, heading=True, exclusive=exclusive)
    synonyms = seed_synonyms(entry.text)
    name = entry.path[-1]
    sense, most_frequent = find_sense(name, entry.kinds, wordnet)
    descriptions: tuple[str, ...] = ()
    if sense is not None:
        words = [word for word in sense.words if is_unambiguous(word, sense, wordnet)]
        for word in words[:6]:
            usable = word.casefold() not in names and word.casefold() in selected
            if usable and not is_spelling(word, [name, *synonyms]) and len(synonyms) < MAX_SYNONYMS:
                synonyms.append(word)
                names[word.casefold()] += 1
        if not most_frequent and entry.hypernym:
            descriptions = (f"a photo of a {name}, a kind of {entry.hypernym}",)
    return Tag(entry.path, tuple(synonyms), descriptions)


def find_sense(name: str, kinds: tuple[str, ...], wordnet: WordNet) -> tuple[Sense | None, bool]:
    """Return the most frequent sense of these kinds, and whether it is the most frequent of all."""
    keys = wordnet.index["noun"].get(name)
    keys = keys or wordnet.index["noun"].get(name.removesuffix("s"), [])
    for rank, key in enumerate(keys):
        sense = wordnet.synsets[key]
        if sense.domain in kinds:
            return sense, rank == 0
    return None, True


def is_unambiguous(word: str, sense: Sense, wordnet: WordNet) -> bool:
    """Return True for a short word in lower case whose most frequent sense this is."""
    keys = wordnet.index["noun"].get(word.lower(), [])
    return (
        bool(re.fullmatch(r"[a-z][a-z' -]{2,22}", word))
        and bool(keys)
        and keys[0] == sense.key
        and len(keys) <= 2
    )


def is_spelling(word: str, names: list[str]) -> bool:
    """Return True if a word is another spelling of one of the names."""

    def letters(text: str) -> str:
        return re.sub(r"[^a-z]", "", text.lower()).removesuffix("s")

    return any(letters(word) == letters(name) for name in names)


if __name__ == "__main__":
    main()
