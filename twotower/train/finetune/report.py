"""The card of a fine-tuning: its gains and losses, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from twotower.files import atomic_write

CARD_TEXT, CARD_JSON = "card.md", "card.json"


@dataclass(frozen=True)
class Change:
    """A score before and after, of 1, and the 95 % interval of the difference."""

    name: str
    measure: str
    pictures: int
    before: float
    after: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Card:
    """The result of a fine-tuning.

    Attributes:
        stage: of the chosen weights: "start", "probe" or "tune".
        mix: the position of the chosen weights between the start (0) and the end (1) of the stage.
        learned_from: pairs that were trained on.
        chosen_by: pairs that the weights were chosen by.
        broken: a line about each unreadable pair.
        may_lose: the loss of outside score that was allowed, of 1.
        own_outside: True if the user gave the outside set.
    """

    pairs: str
    model: str
    method: str
    stage: str
    mix: float
    learned_from: int
    chosen_by: int
    broken: list[str]
    minutes: float
    may_lose: float
    own_outside: bool
    domain: Change
    outside: Change

    def verdict(self) -> str:
        """Return the gain and the loss in two sentences at most."""
        if self.stage == "start":
            return "No candidate is better than the model before; the result is that model."
        gain, loss = self.domain, self.outside
        if gain.interval[0] <= 0:
            text = "No gain is shown, since the interval includes 0; more pairs may show one."
        else:
            text = f"Better on these pictures by {_points(gain)} ({_interval(gain)})."
        if loss.interval[1] < 0:
            return f"{text} Worse elsewhere by {_points(loss)} ({_interval(loss)})."
        return f"{text} No loss elsewhere is shown, within {_interval(loss)}."

    def lines(self) -> Iterator[str]:
        """Yield the lines of the card as Markdown."""
        yield f"# {self.model}, fine-tuned on {self.pairs}"
        yield ""
        yield self.verdict()
        yield ""
        yield "| zero-shot | pictures | before | after | difference, 95 % interval |"
        yield "|---|---|---|---|---|"
        for scope, change in (("in the domain", self.domain), ("outside", self.outside)):
            yield (
                f"| {scope}: {change.name}, {change.measure} | {change.pictures} "
                f"| {change.before:.1%} | {change.after:.1%} | {_interval(change)} |"
            )
        yield ""
        yield (
            f"Method {self.method}: trained on {self.learned_from} pairs, chosen by "
            f"{self.chosen_by} others, tested on {self.domain.pictures} that were not used before. "
            f"The weights lie at {self.mix:.0%} between the start and the end of the {self.stage} "
            f"(WiSE-FT); they are the best of those that lose at most {100 * self.may_lose:.1f} "
            "points on one half of the outside set. The table shows the other half."
        )
        yield ""
        if self.own_outside:
            yield f"The outside set is {self.outside.name}, given by the user."
        else:
            yield (
                "The outside set is drawings of everyday things by two artists. It shows if words "
                "and shapes were forgotten, and little about photographs; give photographs of "
                "other subjects with --outside to measure that."
            )
        yield (
            "Pairs are held out by the content of their files. Similar pictures of one series may "
            "be in training and in the test, which makes the gain look larger than it is."
        )
        if self.broken:
            yield f"{len(self.broken)} pairs could not be used, the first: {self.broken[0]}"


def _points(change: Change) -> str:
    return f"{100 * abs(change.after - change.before):.1f} points"


def _interval(change: Change) -> str:
    low, high = change.interval
    return f"{100 * low:+.1f} to {100 * high:+.1f} points"


def write_card(card: Card, run: Path) -> None:
    """Write `RUN/card.md`, then `RUN/card.json`, which marks the run as complete."""
    with atomic_write(run / CARD_TEXT) as file:
        file.write("\n".join(card.lines()) + "\n")
    with atomic_write(run / CARD_JSON) as file:
        file.write(json.dumps(asdict(card), indent=2, ensure_ascii=False))
