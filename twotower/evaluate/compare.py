"""Compare two models on the same pictures: paired differences, intervals and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from twotower.arrays import Float64Array
from twotower.errors import EvaluationError
from twotower.evaluate.intervals import bootstrap, sign_flip_test

# measure -> key of its outcomes in a result, and the letters of `encode_ranks` that count as right
MEASURES = {
    "top1": ("ranks", "1"),
    "top5": ("ranks", "15"),
    **{
        f"{direction}.recall_at_{k}": (direction, letters)
        for direction in ("text_to_image", "image_to_text")
        for k, letters in ((1, "1"), (5, "15"), (10, "15X"))
    },
}


def read_result(path: Path) -> dict[str, Any]:
    """Read a result that `twotower evaluate ... --json` printed.

    Raises:
        EvaluationError: the file is not such a result.
    """
    remedy = f"write one with: twotower evaluate ... --json > {path}"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EvaluationError(path, f"not JSON ({error})", remedy) from None
    if not isinstance(result, dict) or not {"task", "set", "outcomes"} <= result.keys():
        raise EvaluationError(path, "no result of twotower evaluate ... --json", remedy)
    return result


def compare(first_result: Mapping[str, Any], second_result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the difference of each measure of two results, its interval and its p-value.

    Intervals resample pictures, each with all its captions. `p` comes from a paired permutation
    test; with one answer for each picture that is McNemar's.

    Raises:
        EvaluationError: tasks, pictures, labels or their order differ.
    """
    pair = (first_result, second_result)
    _check_comparable("tasks", *(result["task"] for result in pair))
    _check_comparable("sets", *(result["set"]["fingerprint"] for result in pair))
    differences = []
    for measure, (key, letters) in MEASURES.items():
        if key in first_result["outcomes"]:
            hits = [_hits_per_picture(result["outcomes"], key, letters) for result in pair]
            differences.append({"measure": measure, **_paired_difference(*hits)})
    return {
        "task": "compare",
        "set": first_result["set"],
        "models": [result["configuration"]["model"]["name"] for result in pair],
        "differences": differences,
    }


def _check_comparable(name: str, first_value: str, second_value: str) -> None:
    if first_value != second_value:
        raise EvaluationError(
            "results to compare",
            f"different {name} ({first_value} and {second_value})",
            "only the same pictures, all of them readable by both models, can be compared",
        )


def _hits_per_picture(outcomes: Mapping[str, Any], key: str, letters: str) -> Float64Array:
    """Return, for each picture, the numbers of right answers and of all answers [2, pictures]."""
    hits = np.isin(list(outcomes[key]), list(letters)).astype(np.float64)
    if key != "text_to_image":
        return np.stack([hits, np.ones(len(hits))])
    counts = np.array(outcomes["captions"], np.int64)
    owners = np.repeat(np.arange(len(counts)), counts)
    return np.stack([np.bincount(owners, hits, len(counts)), counts])


def _paired_difference(first_hits: Float64Array, second_hits: Float64Array) -> dict[str, Any]:
    counts, difference = first_hits[1], first_hits[0] - second_hits[0]
    interval = bootstrap(
        lambda weights: np.array([weights @ difference / (weights @ counts)]), len(counts)
    )
    return {
        "first": float(first_hits[0].sum() / counts.sum()),
        "second": float(second_hits[0].sum() / counts.sum()),
        "difference": float(difference.sum() / counts.sum()),
        "ci95": interval[0].tolist(),
        "p": sign_flip_test(difference),
        "n": int(counts.sum()),
    }
