"""Published figures of known models on known sets, to stand beside what is measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from twotower.evaluate.registry import KnownSet

PUBLISHED = Path(__file__).parent / "published.json"


def published(
    model: Mapping[str, Any], known: KnownSet | None, result: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The published figures that belong beside a result.

    The model is known by the name that it was asked for by: its weights are not compared.

    Args:
        model: what `Model.describe` says. known: the set. result: with its measures.

    Returns:
        For each: measure, published, here, source, and whether the whole set was measured, without
        which the two must not be compared. Shares of 1.
    """
    tree = _figures()
    name = next(
        (one for one, about in tree["models"].items() if _is_named(model, about["names"])), None
    )
    if known is None or name is None:
        return []
    return [
        {
            "model": name,
            "measure": measure,
            "published": figure / 100,
            "here": _look_up(result, measure),
            "whole_set": result["set"]["pictures"] == known.pictures,
            "source": tree["source"],
        }
        for measure, figure in tree["models"][name].get(known.key, {}).items()
    ]


@cache
def _figures() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return tree


def _is_named(model: Mapping[str, Any], names: list[str]) -> bool:
    """By the last part of a path or of a name on the hub."""
    asked = str(model["asked_for"]).removeprefix("hf-hub:").rstrip("/")
    return asked.split("/")[-1].lower() in {name.lower() for name in names}


def _look_up(result: Any, measure: str) -> float:
    for key in measure.split("."):
        result = result[key]
    return float(result)
