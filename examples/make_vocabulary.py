"""The shipped vocabulary, from a list of concepts and WordNet's synonyms.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    python examples/make_vocabulary.py wordnet/usr/share/wordnet

Reads vocabulary_seed.txt beside it, which says what there is and where it belongs. For each name
the first meaning of the kinds that its branch allows is looked up: words that mean this and
hardly anything else become synonyms if vocabulary_synonyms.txt has them, and a name that more
often means something else gets a description. vocabulary_descriptions.txt adds more of those, and
what is not meant. Writes twotower/library/vocabulary.txt. WordNet's licence lies beside that.
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
MOST_SYNONYMS = 2
KINDS = ("animal", "plant", "food")
# WordNet also offers what nobody writes ("battercake"), so its synonyms are chosen from.
CHOSEN = SEED.with_name("vocabulary_synonyms.txt")
HEADER = """\
# The vocabulary that `twotower tag` uses unless it is given another: made by
# examples/make_vocabulary.py from examples/vocabulary_seed.txt, with synonyms from WordNet 3.0,
# Copyright 2006 by Princeton University (LICENSE-WORDNET.txt). The format: docs/tagging.md.
"""


class Entry(NamedTuple):
    """A line of the seed, or a leaf of one."""

    path: tuple[str, ...]
    text: str  # the last name with its marks
    above: str  # what it is a kind of; empty below a heading
    kinds: tuple[str, ...]


def main() -> None:
    wordnet = WordNet(Path(sys.argv[1]))
    chosen = read_chosen(CHOSEN.read_text(encoding="utf-8"))
    entries = list(read_seed(SEED.read_text(encoding="utf-8")))
    described = read_descriptions(SEED.with_name("vocabulary_descriptions.txt"))
    taken = Counter(name.casefold() for entry in entries for name in all_names(entry.text))
    repeated = [name for name, count in taken.items() if count > 1]
    assert not repeated, f"named twice: {repeated}"
    tags = []
    for entry in entries:
        tag = make_tag(entry, wordnet, taken, chosen)
        extra = described.pop(str(tag), ([], [], None))
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
    assert not described, f"no such tags: {list(described)}"
    text = HEADER + format_vocabulary(Vocabulary(tuple(tags)))
    assert parse_vocabulary(text).tags == tuple(tags)
    SHIPPED_FILE.write_text(text, encoding="utf-8")
    given = [tag for tag in tags if not tag.heading]
    print(f"{len(given)} tags, {sum(len(tag.synonyms) for tag in given)} synonyms")


def read_seed(text: str) -> Iterator[Entry]:
    """Each branch, then its leaves."""
    above: list[tuple[int, Entry]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        depth = len(line) - len(line.lstrip())
        while above and above[-1][0] >= depth:
            above.pop()
        branch, _, leaves = line.strip().partition(":")
        branch, _, kinds = branch.partition(" @")
        parent = above[-1][1] if above else Entry((), "[]", "", ())
        entry = Entry(
            (*parent.path, bare(branch)),
            branch.strip(),
            kind_above(parent),
            tuple(f"noun.{one.strip()}" for one in kinds.split(",")) if kinds else parent.kinds,
        )
        yield entry
        above.append((depth, entry))
        for leaf in re.split(r", (?![^{]*\})", leaves) if leaves.strip() else []:
            yield Entry((*entry.path, bare(leaf)), leaf.strip(), kind_above(entry), entry.kinds)


def kind_above(parent: Entry) -> str:
    """The name of a branch that is a kind of thing, as those of living things and food are."""
    heading = parent.text.startswith("[") or "(one)" in parent.text
    return "" if heading or parent.path[0] not in KINDS else parent.path[-1]


def read_chosen(text: str) -> set[str]:
    """The words of the list of synonyms."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {word.strip().casefold() for line in lines for word in line.split(",")}


def read_descriptions(path: Path) -> dict[str, tuple[list[str], list[str], str | None]]:
    """By path: descriptions, negatives and the detector, written as in a vocabulary."""
    found: dict[str, tuple[list[str], list[str], str | None]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        mark, rest = line.strip()[:1], line.strip()[1:].strip()
        if not mark or mark == "#":
            continue
        if not line[0].isspace():
            name = line.strip()
            found[name] = ([], [], None)
        elif mark == "@":
            found[name] = (*found[name][:2], rest)
        else:
            found[name][0 if mark == "+" else 1].append(rest)
    return found


def bare(text: str) -> str:
    """The name alone: without marks, braces and brackets."""
    return re.sub(r"\{.*\}|\(one\)|[\[\]]", "", text).strip()


def all_names(text: str) -> list[str]:
    """A name and its synonyms by hand; none of a heading."""
    if text.startswith("[") or "(one)" in text:
        return []
    return [bare(text), *by_hand(text)]


def by_hand(text: str) -> list[str]:
    return [name.strip() for some in re.findall(r"\{(.*?)\}", text) for name in some.split(",")]


def make_tag(entry: Entry, wordnet: WordNet, taken: Counter[str], chosen: set[str]) -> Tag:
    """The tag of a line; `taken` counts the names that are given, and more are added."""
    exclusive = "(one)" in entry.text
    if exclusive or entry.text.startswith("["):
        return Tag(entry.path, heading=True, exclusive=exclusive)
    synonyms = by_hand(entry.text)
    name, parent = entry.path[-1], entry.above
    sense, first = find_sense(name, entry.kinds, wordnet)
    descriptions: tuple[str, ...] = ()
    if sense is not None:
        found = [word for word in sense.words if says_only(word, sense, wordnet)]
        for word in found[:6]:
            wanted = word.casefold() not in taken and word.casefold() in chosen
            if wanted and not alike(word, [name, *synonyms]) and len(synonyms) < MOST_SYNONYMS:
                synonyms.append(word)
                taken[word.casefold()] += 1
        if not first and parent:
            descriptions = (f"a photo of a {name}, a kind of {parent}",)
    return Tag(entry.path, tuple(synonyms), descriptions)


def find_sense(name: str, kinds: tuple[str, ...], wordnet: WordNet) -> tuple[Sense | None, bool]:
    """The first meaning of the right kind, and whether it is the first of all."""
    keys = wordnet.index["noun"].get(name)
    keys = keys or wordnet.index["noun"].get(name.removesuffix("s"), [])
    for place, key in enumerate(keys):
        sense = wordnet.synsets[key]
        if sense.domain in kinds:
            return sense, place == 0
    return None, True


def says_only(word: str, sense: Sense, wordnet: WordNet) -> bool:
    """Whether a word first means this, is no name, no Latin, and short."""
    keys = wordnet.index["noun"].get(word.lower(), [])
    return (
        bool(re.fullmatch(r"[a-z][a-z' -]{2,22}", word))
        and bool(keys)
        and keys[0] == sense.key
        and len(keys) <= 2
    )


def alike(word: str, names: list[str]) -> bool:
    """Whether a word is another spelling of one of the names."""

    def letters(text: str) -> str:
        return re.sub(r"[^a-z]", "", text.lower()).removesuffix("s")

    return any(letters(word) == letters(name) for name in names)


if __name__ == "__main__":
    main()
