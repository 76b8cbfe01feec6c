"""Whether one model is better than another, by the same pictures: two results, paired."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.errors import EvaluationError
from twotower.evaluate.intervals import bootstrap, sign_flip_test

# measure -> where its outcomes are, and which letters of `encode_ranks` count as right
MEASURES = {
    "top1": ("ranks", "1"),
    "top5": ("ranks", "15"),
    **{
        f"{way}.recall_at_{k}": (way, letters)
        for way in ("text_to_image", "image_to_text")
        for k, letters in ((1, "1"), (5, "15"), (10, "15X"))
    },
}


def read_result(path: Path) -> dict[str, Any]:
    """What `twotower evaluate ... --json` printed.

    Raises:
        CompareError: it is something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EvaluationError(f"{path}: not JSON ({error})") from None
    if not isinstance(result, dict) or not {"task", "set", "outcomes"} <= result.keys():
        raise EvaluationError(f"{path}: no result of twotower evaluate ... --json")
    return result


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Each measure of two results, their difference, its interval and a paired test.

    Both are about pictures: their difference is drawn again with all captions of each, and `p` is
    a paired permutation test (for one answer a picture, McNemar's).

    Raises:
        CompareError: other tasks, or other pictures, labels or order.
    """
    for what, ours, theirs in (
        ("tasks", first["task"], second["task"]),
        ("sets", first["set"]["fingerprint"], second["set"]["fingerprint"]),
    ):
        if ours != theirs:
            raise EvaluationError(
                f"other {what} ({ours} and {theirs}): only the same pictures, all of them "
                "readable by both models, can be compared"
            )
    rows = []
    for measure, (place, letters) in MEASURES.items():
        if place not in first["outcomes"]:
            continue
        ours, theirs = (_right(one["outcomes"], place, letters) for one in (first, second))
        rows.append({"measure": measure, **_paired(ours, theirs)})
    return {
        "task": "compare",
        "set": first["set"],
        "models": [one["configuration"]["model"]["name"] for one in (first, second)],
        "differences": rows,
    }


def _right(outcomes: Mapping[str, Any], place: str, letters: str) -> NDArray[np.float64]:
    """[2, pictures]: right answers and answers of each."""
    right = np.isin(list(outcomes[place]), list(letters)).astype(np.float64)
    if place != "text_to_image":
        return np.stack([right, np.ones(len(right))])
    counts = np.array(outcomes["captions"], np.int64)
    owners = np.repeat(np.arange(len(counts)), counts)
    return np.stack([np.bincount(owners, right, len(counts)), counts])


def _paired(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, Any]:
    counts, difference = ours[1], ours[0] - theirs[0]
    interval = bootstrap(
        lambda weights: np.array([weights @ difference / (weights @ counts)]), len(counts)
    )
    return {
        "first": float(ours[0].sum() / counts.sum()),
        "second": float(theirs[0].sum() / counts.sum()),
        "difference": float(difference.sum() / counts.sum()),
        "ci95": interval[0].tolist(),
        "p": sign_flip_test(difference),
        "n": int(counts.sum()),
    }
