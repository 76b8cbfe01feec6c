"""The review page: uncertain tags, picture by picture, as one self-contained HTML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.arrays import Float64Array
from twotower.files import atomic_write
from twotower.pages.render import render, script_json
from twotower.pages.thumbnails import jpeg_base64, thumbnail

if TYPE_CHECKING:
    from twotower.index.schema import PictureRecord
    from twotower.library import Library
    from twotower.tagging.tagger import TaggedPicture, Tagger

HEIGHT = 200  # pixels of a thumbnail in the file
PICTURES_PER_TAG = 24
MOST_TAGS = 60  # on one page
NEAR_CUTOFF = 3.0  # log-odds, a factor of 20 in the odds
UNDECIDED = 1e-6  # a smaller probability, or of the opposite, comes from a person's correction
PAGE = Path(__file__).with_name("review.html")


def write_review(
    library: Library, tagger: Tagger, tagged: list[TaggedPicture], file: Path, learn_command: str
) -> int:
    """Write a page that asks about the most uncertain tags.

    Args:
        learn_command: the command that imports the corrections saved on the page.

    Returns:
        The number of tags on the page.

    Raises:
        OSError: the file cannot be written.
    """
    questions = choose_questions(tagger, tagged)
    rows = sorted({row for _, rows in questions for row in rows})
    records = {
        record.id: record for record in library.catalog.pictures(tagged[row].id for row in rows)
    }
    pictures = {}
    for row in rows:
        record = records[tagged[row].id]
        entry = _picture_entry(library.root / record.path, record)
        if entry is not None:
            pictures[row] = entry
    tags = [
        _tag_entry(tagger, tag, [row for row in rows if row in pictures], tagged)
        for tag, rows in questions
    ]
    data = script_json({"pictures": pictures, "tags": tags})
    values = {"library": library.root.name, "learn_command": learn_command, "data": data}
    with atomic_write(file) as output:
        output.write(render(PAGE.read_text(encoding="utf-8"), values))
    return len(questions)


def choose_questions(tagger: Tagger, tagged: list[TaggedPicture]) -> list[tuple[int, list[int]]]:
    """Choose the tags to ask about, the most useful ones first.

    First come tags with many pictures near their cut-off (`NEAR_CUTOFF`), since the answers decide
    whether pictures get the tag. Tags that are never assigned follow, by their total uncertainty.

    Returns:
        Tags (positions in `tagger.tags`), each with rows of `tagged`, the least certain first.
    """
    if not tagged:
        return []
    probabilities = np.stack([picture.probabilities for picture in tagged])
    doubts = np.minimum(probabilities, 1 - probabilities)
    distances = np.abs(_log_odds(probabilities) - _log_odds(tagger.cutoffs))
    near = np.where((tagger.cutoffs < 1) & (distances < NEAR_CUTOFF), np.exp(-distances), 0.0)
    order = np.lexsort((-_sum_of_largest(doubts), -_sum_of_largest(near)))
    questions = []
    for tag in order[:MOST_TAGS].tolist():
        by_doubt = np.argsort(-doubts[:, tag], kind="stable")[:PICTURES_PER_TAG]
        rows = [row for row in by_doubt.tolist() if doubts[row, tag] > UNDECIDED]
        if rows:
            questions.append((tag, rows))
    return questions


def _sum_of_largest(values: Float64Array) -> Float64Array:
    """Sum the largest `PICTURES_PER_TAG` of each column of `values` [pictures, tags]."""
    return np.asarray(np.sort(values, axis=0)[-PICTURES_PER_TAG:].sum(axis=0))


def _log_odds(probabilities: Float64Array) -> Float64Array:
    bounded = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(bounded / (1 - bounded)))


def _tag_entry(
    tagger: Tagger, tag: int, rows: list[int], tagged: list[TaggedPicture]
) -> dict[str, Any]:
    """Return the entry of a tag in the page's data, with its probability for each row."""
    questions = []
    for row in rows:
        probability = round(float(tagged[row].probabilities[tag]), 3)
        questions.append([row, probability, bool(tagged[row].assigned[tag])])
    return {"tag": str(tagger.tags[tag]), "questions": questions}


def _picture_entry(path: Path, record: PictureRecord) -> dict[str, Any] | None:
    """Return the entry of a picture in the page's data; None if it can no longer be read."""
    image = thumbnail(path, HEIGHT)
    if image is None:
        return None
    return {
        "path": os.fsencode(record.path).decode("utf-8", "replace"),
        "content": (record.content_hash or b"").hex(),
        "jpeg": jpeg_base64(image, quality=78),
    }
