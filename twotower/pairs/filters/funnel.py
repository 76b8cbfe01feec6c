"""The funnel: how many pairs each filter removed, with reasons, and samples of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twotower.arrays import UInt8Array
from twotower.files import atomic_write
from twotower.pairs.filters.settings import REASONS, Reason

FUNNEL_FILE = "funnel.json"


@dataclass(frozen=True)
class Funnel:
    """Counts of the pairs that entered, were removed, and are kept; they add up.

    Attributes:
        pairs: the number of pairs that entered.
        removed: the number of pairs removed for each reason, in the order of the filters.
        samples: the number of pictures with at least one kept pair.
        balance: for each language, the limit of matches and the share of the tail.
        faults: input files that could not be read, entirely or after a point.
    """

    pairs: int
    removed: dict[Reason, int]
    samples: int
    balance: dict[str, dict[str, float]]
    faults: list[str]

    @property
    def kept(self) -> int:
        """The number of pairs that no filter removed."""
        return self.pairs - sum(self.removed.values())

    def lines(self) -> Iterator[str]:
        """Yield the funnel as a table: filter, reason, removed, share, and pairs that remain."""
        remaining = self.pairs
        yield f"{'pairs':<44}{'':>12}{'':>9}{remaining:>14,}"
        for reason, count in self.removed.items():
            if count:
                share = count / remaining
                remaining -= count
                name = f"{reason.filter}: {reason.fault}"
                yield f"{name:<44}{count:>12,}{share:>9.1%}{remaining:>14,}"
        yield f"kept: {self.kept:,} pairs of {self.samples:,} pictures"
        for language, balance in self.balance.items():
            limit, share = balance["limit"], balance["tail_share"]
            name = language or "all languages"
            yield f"queries ({name}): at most {limit:,.0f} matches each, {share:.1%} in the tail"

    def to_json(self) -> dict[str, Any]:
        """Return the funnel as a JSON object."""
        return {
            "pairs": self.pairs,
            "removed": [
                {"filter": reason.filter, "fault": reason.fault, "pairs": count}
                for reason, count in self.removed.items()
                if count
            ],
            "kept": self.kept,
            "samples": self.samples,
            "balance": self.balance,
            "faults": self.faults,
        }


def count_reasons(reasons: UInt8Array) -> dict[Reason, int]:
    """Return the number of pairs for each reason from the codes of all pairs [n]."""
    counts = np.bincount(reasons, minlength=len(REASONS) + 1).tolist()
    return dict(zip(REASONS, counts[1:], strict=True))


def write_funnel(funnel: Funnel, folder: Path) -> None:
    """Write `funnel.json`, the mark of a complete filtering."""
    with atomic_write(folder / FUNNEL_FILE, sync=True) as file:
        json.dump(funnel.to_json(), file, indent=1)


def read_funnel(folder: Path) -> Funnel | None:
    """Return the funnel of a folder, or None if its filtering is not complete."""
    path = folder / FUNNEL_FILE
    if not path.exists():
        return None
    tree = json.loads(path.read_text(encoding="utf-8"))
    counts = {Reason(row["filter"], row["fault"]): row["pairs"] for row in tree["removed"]}
    removed = {reason: counts.get(reason, 0) for reason in REASONS}
    return Funnel(tree["pairs"], removed, tree["samples"], tree["balance"], tree["faults"])
