"""The review page: tags on trial, picture by picture, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twotower.files import atomic_write
from twotower.pages.render import render, script_json
from twotower.pages.thumbnails import thumbnail

if TYPE_CHECKING:
    from twotower.index.schema import PictureRecord
    from twotower.library import Library
    from twotower.tagging.tagger import TaggedPicture, Tagger

HEIGHT = 200  # pixels of a picture in the file
PICTURES = 24  # of each tag
TAGS = 60  # the most that one page asks about
NEAR = 3.0  # log-odds from a cut-off
PAGE = Path(__file__).with_name("review.html")


def write_review(
    library: Library, tagger: Tagger, tagged: list[TaggedPicture], file: Path, learning: str
) -> int:
    """Write the page: the tags about which most is unsure, of each the least sure pictures first.

    Args:
        learning: the command that takes in what is said there.

    Returns:
        How many tags are on it.
    """
    questions = choose(tagger, tagged)
    numbers = sorted({one for _, rows in questions for one in rows})
    records = {one.id: one for one in library.catalog.pictures(tagged[row].id for row in numbers)}
    pictures = {}
    for row in numbers:
        record = records[tagged[row].id]
        entry = _picture(library.root / record.path, record)
        if entry is not None:
            pictures[row] = entry
    tree = {
        "pictures": pictures,
        "tags": [
            {
                "tag": str(tagger.tags[tag]),
                "asked": [
                    [
                        row,
                        round(float(tagged[row].probabilities[tag]), 3),
                        bool(tagged[row].assigned[tag]),
                    ]
                    for row in rows
                    if row in pictures
                ],
            }
            for tag, rows in questions
        ],
    }
    values = {"library": library.root.name, "learning": learning, "data": script_json(tree)}
    page = render(PAGE.read_text(encoding="utf-8"), values)
    with atomic_write(file) as out:
        out.write(page)
    return len(questions)


def choose(tagger: Tagger, tagged: list[TaggedPicture]) -> list[tuple[int, list[int]]]:
    """Tags, the most worth asking first, each with rows of `tagged`, the least sure first.

    What is worth asking is whether pictures are given a tag: first come tags of which many are near
    the cut-off, within a factor of 20 of its odds, then, as for tags that are never given, those of
    which most is unsure.
    """
    if not tagged:
        return []
    probabilities = np.stack([one.probabilities for one in tagged])
    doubts = np.minimum(probabilities, 1 - probabilities)
    distances = np.abs(_logits(probabilities) - _logits(tagger.cutoffs))
    near = np.where((tagger.cutoffs < 1) & (distances < NEAR), np.exp(-distances), 0.0)
    nearest, unsure = (np.sort(one, axis=0)[-PICTURES:].sum(axis=0) for one in (near, doubts))
    questions = []
    for tag in np.lexsort((-unsure, -nearest))[:TAGS].tolist():
        order = np.argsort(-doubts[:, tag], kind="stable")[:PICTURES]
        rows = [row for row in order.tolist() if doubts[row, tag] > 1e-6]  # not yet answered
        if rows:
            questions.append((tag, rows))
    return questions


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(bounded / (1 - bounded)))


def _picture(path: Path, record: PictureRecord) -> dict[str, Any] | None:
    image = thumbnail(path, HEIGHT)
    if image is None:
        return None
    content = io.BytesIO()
    image.save(content, "JPEG", quality=78, optimize=True)
    return {
        "path": os.fsencode(record.path).decode("utf-8", "replace"),
        "content": (record.content_hash or b"").hex(),
        "jpeg": base64.b64encode(content.getvalue()).decode(),
    }
