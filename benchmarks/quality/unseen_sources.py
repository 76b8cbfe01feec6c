"""Measure search and tags on collections that no calibration was fitted on.

    python benchmarks/quality/unseen_sources.py DATA CLONES PACKAGES [MODEL]

DATA, CLONES and PACKAGES are those of examples/gather_pictures.py. The sources are held out whole:
kinds of objects (`imagen`), groceries, clothing, drawings (the stamps of Tux Paint) and the example
photographs; flickr8k-val is another split of a source of the fit. All pictures are indexed in one
library, each source in a folder, under numbers as names, and measured by the public `Library`:

- Search: the names of things as queries, and things that no picture shows. Only names and
  what they are kinds of (competitors.txt) decide a match, so a table beside a dumbbell counts as
  wrong, and the precision is a lower bound. Captions decide as in calibration.py.
- Tags of the shipped vocabulary, at three requested precisions: the share of right ones among those
  that names, captions or labels decide; the share of pictures that get their own kind (with
  captions or labels: of the tags that these name); the share of pictures of things that are tagged
  "person"; and the share of tags for whose name a search finds the picture, of all and of those
  without a kind that the picture is also tagged with.
- Captions: R@1 and R@5 of flickr8k-val, ordered by cosine and by the probability of the search.

Intervals are 95 % (Wilson's, or the percentile bootstrap over queries or pictures). Writes
results/unseen_search.csv, unseen_tags.csv and unseen_captions.csv (the rows of this model in them),
and prints the most frequent mistakes.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.table import ROOT, read_results, write_results
from examples.gather_pictures import read_folder, read_repository, stamp_names, to_words
from twotower.arrays import BoolArray, Float32Array, Float64Array, normalize
from twotower.calibration.captions import (
    captioned_tags,
    content_words,
    read_captioned,
    word_queries,
)
from twotower.calibration.competitors import kinds_of, plain_name
from twotower.calibration.named import NamedPictures, absent_names
from twotower.encode.registry import DEFAULT_MODEL
from twotower.evaluate.intervals import bootstrap_shares, wilson
from twotower.library import Library
from twotower.pairs.sources import open_source
from twotower.search.query import Query, Term
from twotower.tagging.formats import read_vocabulary
from twotower.tagging.vocabulary import Tag

LIBRARY = 600  # pictures of a source, at most
NAMES = 70  # queries with an answer in a source, at most
ABSENT = 40  # queries without
PRECISIONS = (0.9, 0.8, 0.7)  # requested
MISTAKES = 12  # that are printed
PHOTOS = ROOT / "examples" / "photos"
EXPECTED = ROOT / "examples" / "expected.csv"
EXAMPLE_TAGS = ROOT / "benchmarks" / "data" / "example_tags.csv"
ABSENT_TEXTS = ROOT / "benchmarks" / "data" / "absent.txt"
SEARCH_COLUMNS = (
    *("model", "source", "pictures", "names", "a right picture among the matches"),
    *("precision of matches", "absent", "answered by nothing"),
)
TAG_COLUMNS = (
    *("model", "source", "requested", "precision", "own kind", "tags a picture"),
    *("person on a thing", "found by a search", "most specific ones found"),
)
CAPTION_COLUMNS = ("model", "order", "captions", "R@1", "R@5")
DRAWN_THINGS = ("animals", "clothes", "food", "household", "plants", "vehicles")  # of the stamps
CLOTHES = {"longsleeve": "long sleeved shirt", "outwear": "outerwear"}

Answers = NDArray[np.int8]  # 1 for pictures that show a thing, 0 for others, -1 if undecided


@dataclass(frozen=True)
class UnseenSource:
    """Pictures with known answers.

    Attributes:
        pictures: encoded.
        queries: names of things, each with its answers [n].
        absent: names of things that no picture shows.
        tags: those of the vocabulary whose answers are known.
        answers: [n, tags].
        own_kinds: True for the tags that name a picture [n, tags].
        things: True if every picture is named after a thing, so that "person" is hardly right.
    """

    pictures: list[bytes]
    queries: Mapping[str, Answers]
    absent: Sequence[str]
    tags: Sequence[Tag]
    answers: Answers
    own_kinds: BoolArray
    things: bool


def main() -> None:
    data, clones, packages = map(Path, sys.argv[1:4])
    sources = read_sources(data, clones, packages)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root, sources)
        library = Library(root, model=sys.argv[4] if len(sys.argv) > 4 else DEFAULT_MODEL)
        library.index(refine=False)
        model = library.model.config.name
        finder = Finder(library)
        searches = [
            (model, name, *measure_search(finder, root / str(number), source))
            for number, (name, source) in enumerate(sources.items())
        ]
        add_rows("unseen_search.csv", SEARCH_COLUMNS, searches)
        tags = [
            (model, name, *row)
            for number, (name, source) in enumerate(sources.items())
            for row in measure_tags(finder, root / str(number), source)
        ]
        add_rows("unseen_tags.csv", TAG_COLUMNS, tags)
        captions = read_captions(data)
        folder_of_captions = root / str(list(sources).index("flickr8k-val"))
        orders = [(model, *row) for row in measure_captions(library, folder_of_captions, captions)]
        add_rows("unseen_captions.csv", CAPTION_COLUMNS, orders)
        library.close()


def add_rows(file: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows of a model, after those of other models."""
    earlier = [tuple(row.values()) for row in read_results(file)]
    write_results(file, columns, [*(row for row in earlier if row[0] != rows[0][0]), *rows])


# --- sources -------------------------------------------------------------------------------------


def read_sources(data: Path, clones: Path, packages: Path) -> dict[str, UnseenSource]:
    """Return the sources by name."""

    def repository(name: str, pattern: str) -> Iterator[tuple[bytes, str]]:
        git = clones / name / "repo"
        pictures = read_repository(git, pattern, lambda match: [to_words(match["name"])], LIBRARY)
        return ((content, name) for content, [name] in pictures)

    clothes = repository(
        "alexeygrigorev+clothing-dataset-small", r"(?:test|validation)/(?P<name>[^/]+)/.*\.jpg"
    )
    return {
        "kinds of objects": named_source(
            repository("ajschumacher+imagen", r"imagen/n\d+_\d+_(?P<name>.*)\.\w+")
        ),
        "groceries": named_source(
            repository(
                "marcusklasson+GroceryStoreDataset",
                r"dataset/(?:test|val)/\w+/(?P<name>[^/]+)/.*\.jpg",
            )
        ),
        "clothing": named_source((picture, CLOTHES.get(name, name)) for picture, name in clothes),
        "drawings": named_source(read_stamps(packages)),
        "examples/photos": example_source(),
        "flickr8k-val": captioned_source(data),
    }


def read_stamps(packages: Path) -> Iterator[tuple[bytes, str]]:
    """Yield stamps of things, of whose name it is known what it is a kind of."""
    folder = packages / "deb/usr/share/tuxpaint/stamps"
    pictures = (
        (content, re.sub(r"^(an?|the|some) |\.$", "", names[0].lower()))
        for kind in DRAWN_THINGS
        for content, names in read_folder(folder / kind, "**/*.png", stamp_names, 10**6)
    )
    return islice((entry for entry in pictures if kinds_of(plain_name(entry[1]))), LIBRARY)


def named_source(pictures: Iterable[tuple[bytes, str]]) -> UnseenSource:
    """Return pictures of a thing each, with its name."""
    contents, names = zip(*pictures, strict=True)
    named = NamedPictures([(name,) for name in names], unrelated_embeds)
    random = np.random.default_rng(0)
    drawn = random.permutation(sorted(set(names)))[:NAMES].tolist()
    absent = [query.text for query in absent_names(named, random)][:ABSENT]
    tags = [
        tag for tag in read_vocabulary().assignable if not tag.detector and named.decides(tag.names)
    ]
    names_of_tags = [{plain_name(name) for name in tag.names} for tag in tags]
    return UnseenSource(
        list(contents),
        {name: answers_of(named, [name]) for name in drawn},
        absent,
        tags,
        np.stack([answers_of(named, tag.names) for tag in tags], axis=1),
        np.array(
            [[plain_name(name) in tag_names for tag_names in names_of_tags] for name in names]
        ),
        things=True,
    )


def answers_of(named: NamedPictures, words: Sequence[str]) -> Answers:
    return named.answers(words, unrelated_embeds(words[:1])[0])


def unrelated_embeds(names: Sequence[str]) -> Float32Array:
    """Return embeds of which no two are similar, so that names alone decide."""
    seeds = [[*name.encode()] for name in names]
    return normalize(
        np.stack([np.random.default_rng(seed).standard_normal(4096) for seed in seeds]).astype(
            np.float32
        )
    )


def example_source() -> UnseenSource:
    """Return the example photographs, with the labels that people gave them."""
    with EXPECTED.open(newline="", encoding="utf-8") as file:
        labels = {row["file"]: row["labels"].split("|") for row in csv.DictReader(file)}
    with EXAMPLE_TAGS.open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    named = NamedPictures(list(labels.values()), unrelated_embeds)
    vocabulary = read_vocabulary()
    shown = [row[column] for row in rows.values() for column in ("shows", "open")]
    words = {word for text in [*shown, *named.vocabulary] for word in content_words(text)}
    tags = [tag for name, _ in read_captioned() if (tag := vocabulary.find(name)) is not None]
    answers = np.zeros((len(labels), len(tags)), np.int8)
    for picture, file_name in enumerate(labels):
        for column, answer in (("open", -1), ("shows", 1)):
            names = rows[file_name][column].split("|")
            answers[picture, [number for number, tag in enumerate(tags) if tag.name in names]] = (
                answer
            )
    return UnseenSource(
        [(PHOTOS / name).read_bytes() for name in labels],
        {name: answers_of(named, [name]) for name in sorted({*chain(*labels.values())})},
        absent_texts(words),
        tags,
        answers,
        answers == 1,
        things=False,
    )


def captioned_source(data: Path) -> UnseenSource:
    """Return flickr8k-val."""
    source = open_source(data / "flickr8k-val")
    pairs = [source[number] for number in range(len(source))]
    captions = [pair.captions for pair in pairs]
    queries = word_queries(captions)
    drawn = np.random.default_rng(0).permutation(len(queries))[:NAMES].tolist()
    answers: dict[str, Answers] = {}
    for number in drawn:
        row = np.zeros(len(pairs), np.int8)
        row[queries[number].matching] = 1
        row[queries[number].unknown] = -1
        answers[queries[number].text] = row
    vocabulary = read_vocabulary()
    decided = [
        (tag, entry.answers)
        for entry in captioned_tags(captions)
        if (tag := vocabulary.find(entry.name)) is not None
    ]
    of_tags = np.stack([row for _, row in decided], axis=1)
    return UnseenSource(
        [pair.picture for pair in pairs],
        answers,
        absent_texts(set()),
        [tag for tag, _ in decided],
        of_tags,
        of_tags == 1,
        things=False,
    )


def absent_texts(words: set[str]) -> list[str]:
    """Return texts of absent.txt without any of these words."""
    texts = ABSENT_TEXTS.read_text(encoding="utf-8").splitlines()
    usable = [text for text in texts if not words.intersection(content_words(text))]
    return np.random.default_rng(0).permutation(usable)[:ABSENT].tolist()


def read_captions(data: Path) -> list[tuple[str, ...]]:
    source = open_source(data / "flickr8k-val")
    return [source[number].captions for number in range(len(source))]


def write_pictures(root: Path, sources: Mapping[str, UnseenSource]) -> None:
    """Write the pictures of each source into a folder, with numbers as names."""
    for number, source in enumerate(sources.values()):
        (root / str(number)).mkdir()
        for picture, content in enumerate(source.pictures):
            kind = (Image.open(io.BytesIO(content)).format or "jpeg").lower()
            (root / str(number) / f"{picture:04d}.{kind}").write_bytes(content)


# --- search --------------------------------------------------------------------------------------


class Finder:
    """Searches by the public interface, each only once."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._matches: dict[tuple[Path, str], frozenset[int]] = {}

    def matches(self, folder: Path, text: str) -> frozenset[int]:
        """Return the numbers of the pictures in a folder that match a text."""
        key = (folder, text)
        if key not in self._matches:
            query = Query(text, (Term(text),))
            result = self.library.search(query, top=10**6, group=False, folder=folder)
            self._matches[key] = frozenset(int(hit.path.stem) for hit in result)
        return self._matches[key]


def measure_search(finder: Finder, folder: Path, source: UnseenSource) -> tuple[str, ...]:
    """Search for the names of a source, and for absent things."""
    hits, right, decided, mistakes = [], [], [], Counter[str]()
    for name, answers in source.queries.items():
        matched = answers[sorted(finder.matches(folder, name))]
        hits.append(bool((matched == 1).any()))
        right.append(float((matched == 1).sum()))
        decided.append(float((matched >= 0).sum()))
        mistakes[name] = int((matched == 0).sum())
    rejected = [not finder.matches(folder, text) for text in source.absent]
    print(f"{folder.name}: wrong matches:", *(+mistakes).most_common(MISTAKES))
    missed = [name for name, hit in zip(source.queries, hits, strict=True) if not hit]
    print(f"{folder.name}: not found:", ", ".join(missed[: 2 * MISTAKES]))
    return (
        str(len(source.pictures)),
        str(len(hits)),
        share_of(hits),
        ratio(np.array(right), np.array(decided)),
        str(len(rejected)),
        share_of(rejected),
    )


# --- tags ----------------------------------------------------------------------------------------


def measure_tags(finder: Finder, folder: Path, source: UnseenSource) -> Iterator[tuple[str, ...]]:
    """Tag the pictures of a source at each precision."""
    columns = {tag.path: column for column, tag in enumerate(source.tags)}
    by_words = {tag.path for tag in read_vocabulary().assignable if is_by_words(tag)}
    for precision in PRECISIONS:
        result = finder.library.tag(read_vocabulary(), folder=folder, precision=precision)
        assigned = np.zeros(source.answers.shape, bool)
        persons = np.zeros(len(assigned), bool)
        counts, searched, most_specific, searched_specific = np.zeros((4, len(assigned)))
        for path, tags in result.assigned():
            picture = int(path.stem)
            assigned[picture, [columns[tag] for tag in tags if tag in columns]] = True
            persons[picture] = any(tag[-1] == "person" for tag in tags)
            is_found = {
                tag: picture in finder.matches(folder, tag[-1]) for tag in tags if tag in by_words
            }
            kinds = [tag for tag in is_found if not any(tag == specific[:-1] for specific in tags)]
            counts[picture], searched[picture] = len(is_found), sum(is_found.values())
            most_specific[picture] = len(kinds)
            searched_specific[picture] = sum(is_found[tag] for tag in kinds)
        right, decided = assigned & (source.answers == 1), assigned & (source.answers >= 0)
        print_wrong_tags(folder, precision, source, decided & ~right)
        has_tag = np.asarray(source.own_kinds.any(axis=1))
        yield (
            f"{precision:.1f}",
            ratio(right.sum(axis=1), decided.sum(axis=1)),
            share_of(np.asarray((assigned & source.own_kinds).any(axis=1))[has_tag])
            if source.things
            else ratio((assigned & source.own_kinds).sum(axis=1), source.own_kinds.sum(axis=1)),
            f"{counts.mean():.2f}",
            share_of(persons) if source.things else "",
            ratio(searched, counts),
            ratio(searched_specific, most_specific),
        )


def is_by_words(tag: Tag) -> bool:
    """Return True for a tag that its words decide alone, not a detector or a group."""
    exclusive = {heading.path for heading in read_vocabulary().tags if heading.exclusive}
    return tag.detector is None and tag.path[:-1] not in exclusive


def print_wrong_tags(
    folder: Path, precision: float, source: UnseenSource, wrong: BoolArray
) -> None:
    counts = Counter(
        {tag.name: int(n) for tag, n in zip(source.tags, wrong.sum(0), strict=True) if n}
    )
    print(f"{folder.name}: wrong tags at {precision}:", *counts.most_common(MISTAKES))


# --- captions ------------------------------------------------------------------------------------


def measure_captions(
    library: Library, folder: Path, captions: Sequence[Sequence[str]]
) -> Iterator[tuple[str, ...]]:
    """Order the pictures of a folder for every caption: by cosine, and as a search does."""
    prefix = f"{folder.name}/"
    records = [record for record in library.catalog.records() if record.path.startswith(prefix)]
    numbers = np.array([int(Path(record.path).stem) for record in records])
    image_embeds = library.vectors.get(np.array([record.id for record in records], np.int64))

    def by_cosine(texts: Sequence[str]) -> list[list[int]]:
        scores = library.model.encode_text(list(texts)) @ image_embeds.T
        return [numbers[np.argsort(-row)[:5]].tolist() for row in scores]

    def by_search(texts: Sequence[str]) -> list[list[int]]:
        queries = [Query(text, (Term(text),)) for text in texts]
        results = (
            library.search(query, top=5, all=True, group=False, folder=folder) for query in queries
        )
        return [[int(hit.path.stem) for hit in result] for result in results]

    orders: dict[str, Callable[[Sequence[str]], list[list[int]]]] = {
        "cosine": by_cosine,
        "probability": by_search,
    }
    for name, order in orders.items():
        at_1, at_5 = np.zeros(len(captions)), np.zeros(len(captions))
        for picture, texts in enumerate(captions):
            best = order(texts)
            at_1[picture] = sum(row[0] == picture for row in best)
            at_5[picture] = sum(picture in row for row in best)
        counts = np.array([len(texts) for texts in captions], np.float64)
        yield (name, str(int(counts.sum())), ratio(at_1, counts), ratio(at_5, counts))


# --- figures -------------------------------------------------------------------------------------


def share_of(values: Sequence[bool] | BoolArray) -> str:
    """Return the share of true values with its interval."""
    if not len(values):
        return ""
    share = float(np.mean(values))
    return with_interval(share, *wilson(share, len(values)))


def ratio(
    numerators: NDArray[np.floating | np.integer], denominators: NDArray[np.floating | np.integer]
) -> str:
    """Return the sum of numerators by that of denominators, with a bootstrap interval."""
    if not denominators.sum():
        return ""
    column: Float64Array = np.asarray(numerators, np.float64)[:, None]
    [[low, high]] = bootstrap_shares(column, np.asarray(denominators, np.float64))
    return with_interval(float(numerators.sum() / denominators.sum()), low, high)


def with_interval(share: float, low: float, high: float) -> str:
    return f"{share:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
