"""The card of a fine-tuning: its gains and losses, for people and for programs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from twotower.files import atomic_write
from twotower.train.finetune.candidates import Candidate, Stage

CARD_TEXT, CARD_JSON, CARD_CURVE = "card.md", "card.json", "card.png"


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
class CandidateRow:
    """The gain and the change outside of a candidate, of 1, with 95 % intervals.

    Both are measured on the pairs that the choice is made by.
    """

    name: str
    stage: Stage
    value: float
    gain: float
    gain_interval: tuple[float, float]
    outside: float
    outside_interval: tuple[float, float]
    allowed: bool
    chosen: bool


@dataclass(frozen=True)
class Card:
    """The result of a fine-tuning.

    Attributes:
        result: the name of the chosen candidate, and `stage` its stage.
        trained_on: pairs that were trained on, and that the candidate was chosen by.
        broken: a line about each unreadable pair.
        may_lose: the loss of outside score that was allowed, of 1.
        own_outside: True if the user gave the outside set.
    """

    pairs: str
    model: str
    method: str
    result: str
    stage: Stage
    trained_on: int
    broken: list[str]
    minutes: float
    may_lose: float
    own_outside: bool
    candidates: list[CandidateRow]
    domain: Change
    outside: Change

    def verdict(self) -> str:
        """Return the gain and the loss in two sentences at most."""
        if self.stage == "start":
            return "No candidate is better than the model before; the result is that model."
        gain, loss = self.domain, self.outside
        if gain.interval[0] <= 0:
            text = (
                f"On {gain.pictures} pictures held out, {_signed(gain.after - gain.before)} "
                f"({_interval(gain.interval)}); more pairs may show a gain."
            )
        else:
            text = f"Better on these pictures by {_points(gain)} ({_interval(gain.interval)})."
        if loss.interval[1] < 0:
            return f"{text} Worse elsewhere by {_points(loss)} ({_interval(loss.interval)})."
        return f"{text} No loss elsewhere is shown, within {_interval(loss.interval)}."

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
                f"| {change.before:.1%} | {change.after:.1%} | {_interval(change.interval)} |"
            )
        yield ""
        yield (
            f"The table shows {self.domain.pictures} pictures that nothing was trained on or "
            "chosen by, and one half of the outside set. The candidates below were scored on the "
            f"other {self.trained_on} pairs, each by weights that were not trained on it, and on "
            "the other half of the outside set. Chosen is the best in the domain, of those whose "
            f"loss outside with its standard error is at most {100 * self.may_lose:g} points. "
            "To choose with another limit, without training again, repeat the command with another "
            "--may-lose."
        )
        yield ""
        yield "| candidate | gain in points, 95 % interval | outside, 95 % interval | |"
        yield "|---|---|---|---|"
        for row in self.candidates:
            yield (
                f"| {row.name} | {_signed(row.gain)} ({_interval(row.gain_interval)}) "
                f"| {_signed(row.outside)} ({_interval(row.outside_interval)}) | {_mark(row)} |"
            )
        yield ""
        yield from self._notes()

    def _notes(self) -> Iterator[str]:
        if self.stage == "texts":
            yield (
                "The vectors of pictures are those of the model before, so an index made with it "
                "stays valid."
            )
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


def candidate_rows(
    candidates: Sequence[Candidate], chosen: Candidate, may_lose: float
) -> list[CandidateRow]:
    """Return the rows of the card; the first candidate is the model before."""
    start = candidates[0]
    return [
        CandidateRow(
            candidate.name(),
            candidate.stage,
            candidate.value,
            *candidate.gain(start),
            *candidate.change_outside(start),
            candidate.is_allowed(start, may_lose),
            candidate is chosen,
        )
        for candidate in candidates
    ]


def _mark(row: CandidateRow) -> str:
    if row.chosen:
        return "chosen"
    return "" if row.allowed else "loses too much"


def _points(change: Change) -> str:
    return f"{100 * abs(change.after - change.before):.1f} points"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _interval(interval: tuple[float, float]) -> str:
    return f"{_signed(interval[0])} to {_signed(interval[1])} points"


def write_card(card: Card, run: Path) -> None:
    """Write `card.png`, `card.md`, then `card.json`, which marks the run as complete."""
    curve = draw_trade_off(card)
    with atomic_write(run / CARD_CURVE, "wb") as file:
        file.write(curve)
    with atomic_write(run / CARD_TEXT) as file:
        file.write("\n".join([*card.lines(), "", f"![gain and loss]({CARD_CURVE})"]) + "\n")
    with atomic_write(run / CARD_JSON) as file:
        file.write(json.dumps(asdict(card), indent=2, ensure_ascii=False))


def draw_trade_off(card: Card) -> bytes:
    """Draw gain against the change outside, with intervals, for all candidates; return a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for stage in dict.fromkeys(row.stage for row in card.candidates):
        rows = [row for row in card.candidates if row.stage == stage]
        outside, gain = [100 * row.outside for row in rows], [100 * row.gain for row in rows]
        axes.errorbar(
            outside,
            gain,
            xerr=_errors([(row.outside, row.outside_interval) for row in rows]),
            yerr=_errors([(row.gain, row.gain_interval) for row in rows]),
            marker="o",
            linewidth=1,
            elinewidth=0.5,
            label=stage,
        )
    [chosen] = [row for row in card.candidates if row.chosen]
    axes.plot(100 * chosen.outside, 100 * chosen.gain, "k*", markersize=14, label="chosen")
    axes.axvline(-100 * card.may_lose, linestyle=":", color="grey", label="--may-lose")
    axes.set_xlabel("change outside, points")
    axes.set_ylabel("gain in the domain, points")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _errors(values: Sequence[tuple[float, tuple[float, float]]]) -> list[list[float]]:
    """Return the distances from values to the ends of their intervals, in points."""
    return [
        [max(0.0, 100 * (value - low)) for value, (low, _) in values],
        [max(0.0, 100 * (high - value)) for value, (_, high) in values],
    ]
