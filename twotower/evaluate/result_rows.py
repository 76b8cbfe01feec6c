"""The numbers of a result as rows: for tables, pages and comparisons alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

    `keys` say where it stands in the result, such as ("text_to_image", "recall_at_1").
    """

    keys: tuple[str, ...]
    n: int
    value: float
    low: float
    high: float

    @property
    def measure(self) -> str:
        """For machines: "text_to_image.recall_at_1"."""
        return ".".join(self.keys)

    @property
    def title(self) -> str:
        """For people: "text to image R@1"."""
        return title(self.keys)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})".replace("%", " %")


def title(keys: Sequence[str]) -> str:
    """What people call a measure."""
    return " ".join(TITLES.get(key, key.replace("_", " ")) for key in keys)


def numbers(result: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[Number]:
    """All numbers with an interval: what stands in a `ci95`, wherever that is in the result."""
    for name, (low, high) in result.get("ci95", {}).items():
        yield Number((*above, name), result["n"], result[name], low, high)
    for key, value in result.items():
        if isinstance(value, Mapping) and key not in ("ci95", "configuration"):
            yield from numbers(value, (*above, key))


def count(number: int) -> str:
    """12 345."""
    return f"{number:,}".replace(",", " ")


def set_line(result: Mapping[str, Any]) -> str:
    """What a result was measured on."""
    about = result["set"]
    parts = [f"{count(about['pictures'])} pictures"]
    parts += [f"{count(about[key])} {key}" for key in ("classes", "captions") if key in about]
    return f"{about['title']}: {', '.join(parts)}"


def not_the_whole(result: Mapping[str, Any]) -> str | None:
    """A warning, where a number is not about a whole published set."""
    here, whole = result["set"]["pictures"], result["set"]["of"]
    if here < whole:
        return (
            f"a subset, {count(here)} of {count(whole)} pictures: "
            "not comparable with figures of the whole"
        )
    if here > whole:
        return f"the published test split has {count(whole)} pictures: this is another split"
    return None
