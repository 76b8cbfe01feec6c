"""Results of evaluations: trees that are printed as JSON, and the measures in them."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL

from twotower.arrays import Int64Array
from twotower.encode.devices import split_engine
from twotower.evaluate.models import Model
from twotower.version import __version__

Result: TypeAlias = dict[str, Any]
"""A result, or a part of one, as it is printed as JSON (docs/evaluation.md)."""

COLUMNS = ("set", "measure", "n", "value", "low", "high", "model", "fingerprint", "templates")
TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class": "mean over classes",
    "map": "mean average precision",
    "ece": "calibration error (ECE)",
    "text_to_image": "text to image",
    "image_to_text": "image to text",
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
}


# --- making a result -----------------------------------------------------------------------------


def encode_ranks(ranks: Int64Array) -> str:
    """Encode each rank as a letter: 1, 5, X or - for among the top 1, 5, 10 or below."""
    return "".join(np.array(list("15X-"))[np.searchsorted((1, 5, 10), ranks, side="right")])


def configuration(model: Model, **options: Any) -> Result:
    """Return everything that a result depends on: model, options, versions and time."""
    description = model.describe()
    versions = {
        "twotower": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
    if "engine" in description:
        runtime, _ = split_engine(description["engine"])
        versions[runtime] = version(runtime)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {"model": description, **options, "versions": versions, "made": made}


def result_to_json(result: Mapping[str, Any]) -> str:
    """Return valid JSON with a line for each key of the result; NaN becomes null."""
    lines = [
        f" {json.dumps(key)}: {json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)}"
        for key, value in result.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: Any) -> Any:
    """Replace numpy scalars by Python's, and NaN by None."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


# --- the measures in a result --------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """A share of 1 with its 95 % interval.

    Attributes:
        keys: its position in the result, such as ("text_to_image", "recall_at_1").
        n: the number of pictures or captions that it is measured on.
    """

    keys: tuple[str, ...]
    n: int
    value: float
    low: float
    high: float

    @property
    def measure(self) -> str:
        """The name for machines: "text_to_image.recall_at_1"."""
        return ".".join(self.keys)

    @property
    def title(self) -> str:
        """The name for people: "text to image R@1"."""
        return measure_title(self.keys)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})".replace("%", " %")


def measure_title(keys: Sequence[str]) -> str:
    """Return the name of a measure for people."""
    return " ".join(TITLES.get(key, key.replace("_", " ")) for key in keys)


def measurements(result: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[Measurement]:
    """Yield every value of a result that has an interval under a `ci95`, at any depth."""
    for name, (low, high) in result.get("ci95", {}).items():
        yield Measurement((*prefix, name), result["n"], result[name], low, high)
    for key, value in result.items():
        if isinstance(value, Mapping) and key not in ("ci95", "configuration"):
            yield from measurements(value, (*prefix, key))


def append_csv(path: Path, result: Mapping[str, Any]) -> None:
    """Append a row for each measure to a table, which gets `COLUMNS` first if it is empty."""
    description = result["configuration"]["model"]
    model = (description["name"], (description.get("fingerprint") or "")[:12])
    templates = result["configuration"].get("templates", [])
    prompts = templates[0] if len(templates) == 1 else f"{len(templates)}" if templates else ""
    empty = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if empty:
            writer.writerow(COLUMNS)
        for row in measurements(result):
            figures = (f"{value:.4f}" for value in (row.value, row.low, row.high))
            writer.writerow((result["set"]["title"], row.measure, row.n, *figures, *model, prompts))


# --- words for people ----------------------------------------------------------------------------


def format_count(number: int) -> str:
    """Format a number in groups of three digits, such as 12 345."""
    return f"{number:,}".replace(",", " ")


def summarize_set(result: Mapping[str, Any]) -> str:
    """Return the title of the measured set and its numbers of pictures, classes and captions."""
    measured = result["set"]
    counts = [f"{format_count(measured['pictures'])} pictures"]
    counts += [
        f"{format_count(measured[key])} {key}" for key in ("classes", "captions") if key in measured
    ]
    return f"{measured['title']}: {', '.join(counts)}"


def subset_warning(result: Mapping[str, Any]) -> str | None:
    """Return a warning if the measured pictures are not the whole published set."""
    measured, published = result["set"]["pictures"], result["set"]["of"]
    if measured < published:
        return (
            f"a subset, {format_count(measured)} of {format_count(published)} pictures: "
            "not comparable with figures for the whole set"
        )
    if measured > published:
        return (
            f"the published test split has {format_count(published)} pictures: "
            "this is another split"
        )
    return None
