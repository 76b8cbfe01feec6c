"""The numbers of a result as rows: for tables, pages and comparisons alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Number:
    """A share of 1 over n pictures or captions, with its 95 % interval.

    `measure` is where it stands in the result, such as "text_to_image.recall_at_1".
    """

    measure: str
    n: int
    value: float
    low: float
    high: float

    @property
    def title(self) -> str:
        """For people: "text to image R@1"."""
        return measure_title(self.measure)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})".replace("%", " %")


def measure_title(measure: str) -> str:
    """What people call it."""
    return " ".join(TITLES.get(key, key.replace("_", " ")) for key in measure.split("."))


def numbers(result: Mapping[str, Any], prefix: str = "") -> Iterator[Number]:
    """All numbers with an interval: what stands in a `ci95`, wherever that is in the result."""
    for name, (low, high) in result.get("ci95", {}).items():
        yield Number(prefix + name, result["n"], result[name], low, high)
    for key, value in result.items():
        if isinstance(value, Mapping) and key not in ("ci95", "configuration"):
            yield from numbers(value, f"{prefix}{key}.")


def set_line(result: Mapping[str, Any]) -> str:
    """What a result was measured on, and that it is a part where it is one."""
    about = result["set"]
    count = f"{about['pictures']:,}".replace(",", " ")
    whole = f"{about['of']:,}".replace(",", " ")
    if about["pictures"] < about["of"]:
        size = f"{count} of {whole} pictures (a subset: not comparable with figures of the whole)"
    elif about["pictures"] > about["of"]:
        size = f"{count} pictures (the published test split has {whole}: another split)"
    else:
        size = f"{count} pictures"
    parts = [f"{about['title']}: {size}"]
    parts += [
        f"{about[key]:,} {key}".replace(",", " ") for key in ("classes", "captions") if key in about
    ]
    return ", ".join(parts)
