"""What a fine-tuning gained and lost, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

TEXT, DATA = "card.md", "card.json"


@dataclass(frozen=True)
class Change:
    """A score before and after, as shares of 1, with the 95 % interval of their difference."""

    name: str
    measure: str
    pictures: int
    before: float
    after: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Card:
    """A fine-tuning: what was done, and what it changed."""

    pairs: str
    model: str
    method: str
    stage: str  # what was chosen: "start", "probe" or "tune"
    mix: float  # how far from the start to the end of that stage
    learned_from: int
    chosen_by: int
    broken: list[str]
    minutes: float
    may_lose: float
    own_outside: bool
    domain: Change
    outside: Change

    def verdict(self) -> str:
        """One sentence."""
        if self.stage == "start":
            return "Nothing that was tried is better; the result is the model it started from."
        gain, loss = self.domain, self.outside
        low, _ = gain.interval
        if low <= 0:
            text = "No gain is shown: the interval holds 0; more pairs may tell."
        else:
            text = f"Better on these pictures by {_points(gain)} ({_interval(gain)})."
        if loss.interval[1] < 0:
            return f"{text} Worse elsewhere by {_points(loss)} ({_interval(loss)})."
        return f"{text} No loss elsewhere is shown, within {_interval(loss)}."

    def lines(self) -> Iterator[str]:
        """The card as Markdown."""
        yield f"# {self.model}, fine-tuned on {self.pairs}"
        yield ""
        yield self.verdict()
        yield ""
        yield "| zero-shot | pictures | before | after | difference, 95 % interval |"
        yield "|---|---|---|---|---|"
        for what, change in (("in the domain", self.domain), ("outside", self.outside)):
            yield (
                f"| {what}: {change.name}, {change.measure} | {change.pictures} "
                f"| {change.before:.1%} | {change.after:.1%} | {_interval(change)} |"
            )
        yield ""
        yield (
            f"Method {self.method}: learned from {self.learned_from} pairs, chosen by "
            f"{self.chosen_by} others, measured on {self.domain.pictures} that neither saw. The "
            f"result lies {self.mix:.0%} of the way from the start to the end of the {self.stage} "
            f"(WiSE-FT), the best of those that lose at most {100 * self.may_lose:.1f} points on "
            "the other half of the outside set."
        )
        yield ""
        if self.own_outside:
            yield f"The outside set is {self.outside.name}, given by the user."
        else:
            yield (
                "The outside set is drawings of everyday things by two artists. It shows whether "
                "words and shapes were forgotten, and little of how photographs are understood; "
                "for that, give pictures of what you care about (--outside)."
            )
        yield (
            "Held out means by the content of files: pictures of one series may lie on both sides, "
            "and then the gain looks larger than it is."
        )
        if self.broken:
            yield f"{len(self.broken)} pairs could not be used, the first: {self.broken[0]}"


def _points(change: Change) -> str:
    return f"{100 * abs(change.after - change.before):.1f} points"


def _interval(change: Change) -> str:
    low, high = change.interval
    return f"{100 * low:+.1f} to {100 * high:+.1f} points"


def write_card(card: Card, run: Path) -> None:
    """`RUN/card.md`, then `RUN/card.json`, which says that the run is complete."""
    (run / TEXT).write_text("\n".join(card.lines()) + "\n", encoding="utf-8")
    writing = run / f".writing-{DATA}"
    writing.write_text(json.dumps(asdict(card), indent=2, ensure_ascii=False), encoding="utf-8")
    writing.replace(run / DATA)
