"""Published figures of models on public sets, to compare with measured ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from twotower.evaluate.registry import PublicSet

PUBLISHED = Path(__file__).parent / "published.json"


def published_figures(
    model: Mapping[str, Any], public_set: PublicSet | None, result: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the published figures of a model on a set.

    The model is recognised by the name that it was loaded by; its weights are not compared.

    Args:
        model: as `Model.describe` returns it.
        public_set: the set that was measured.
        result: with its measures.

    Returns:
        Mappings with "model", "measure", "published", "here" (shares of 1), "source", and
        "whole_set": if that is false, the two figures must not be compared.
    """
    tree = _read_published()
    name = next(
        (key for key, entry in tree["models"].items() if _is_named(model, entry["names"])), None
    )
    if public_set is None or name is None:
        return []
    return [
        {
            "model": name,
            "measure": measure,
            "published": figure / 100,
            "here": _measured_value(result, measure),
            "whole_set": result["set"]["pictures"] == public_set.pictures,
            "source": tree["source"],
        }
        for measure, figure in tree["models"][name].get(public_set.key, {}).items()
    ]


@cache
def _read_published() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return tree


def _is_named(model: Mapping[str, Any], names: list[str]) -> bool:
    """Compare the last component of a path or of a name on the hub with `names`."""
    requested = str(model["asked_for"]).removeprefix("hf-hub:").rstrip("/")
    return requested.split("/")[-1].lower() in {name.lower() for name in names}


def _measured_value(result: Any, measure: str) -> float:
    for key in measure.split("."):
        result = result[key]
    return float(result)
