"""Fine-tune a model on one's own pictures and measure the effect elsewhere: `fit`.

1. Hold out a fifth of the pairs, equally many of each class, for the report.
2. Fit new vectors for the texts of the others, with penalties of several strengths (`text_fit.py`);
   score each by cross-validation. With the methods "full" and "lora", also train both towers and
   interpolate between the weights before and after (`towers.py`).
3. Choose the candidate that is best in the domain, among those that lose little on an outside set.
4. Report: score the model before and after on the pairs held out and on other outside pictures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from twotower.arrays import Float32Array
from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.encode.load import find_model
from twotower.errors import TrainError
from twotower.files import atomic_write
from twotower.model.config import read_config
from twotower.pairs.sources import open_source
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.train.config import DataConfig, TrainConfig, with_settings
from twotower.train.finetune.candidates import (
    Candidate,
    choose_candidate,
    read_candidates,
    write_candidates,
)
from twotower.train.finetune.data import FineTuneData
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.held_out import HeldOutSet, difference_interval
from twotower.train.finetune.report import CARD_JSON, Card, Change, candidate_rows, write_card
from twotower.train.finetune.text_parts import text_head_name
from twotower.train.finetune.texts import make_text_candidates
from twotower.train.finetune.towers import (
    make_tower_candidates,
    mixed_weights,
    train_towers,
    tuning_config,
)
from twotower.train.finetune.write import write_result
from twotower.train.run_log import ReportRow, ignore_row

Method = Literal["texts", "full", "lora"]
SETTINGS, CANDIDATES = "fit.json", "candidates.npz"


def fit(
    pairs: str | Path,
    run: str | Path,
    *,
    model: str | Path | None = None,
    method: Method = "texts",
    outside: str | Path | None = None,
    may_lose: float = 0.01,
    minutes: float = 10.0,
    settings: Sequence[str] = (),
    progress: ReportProgress = ignore_progress,
    report: ReportRow = ignore_row,
) -> Card:
    """Fine-tune a model on one's own pictures, and measure gain and loss.

    Writes `RUN/model` (a model directory), `RUN/card.md`, `RUN/card.json` and `RUN/card.png`. If a
    run was stopped, a call with the same arguments continues it. If it is finished, a call with
    another `may_lose` chooses again among its candidates, without training.

    Args:
        pairs: pictures with captions, as `open_source` takes them; or pictures in folders that are
            named after their content.
        run: a new folder.
        model: as `load` takes it; the bundled one by default.
        method: "texts" fits new vectors for the texts, and leaves those of all pictures; "full" and
            "lora" also train both towers, by all weights or by low-rank updates of them.
        outside: pairs (or named folders) that the model should not get worse at; by default
            emoji of everyday things, which are a weak stand-in for photographs.
        may_lose: the loss of outside score that is allowed, of 1, with its standard error.
        minutes: the towers are not trained if that would take longer.
        settings: `NAME=VALUE` overrides of the `TrainConfig` of the towers.
        progress: is called with the stages and their state.
        report: is called with each logged row of the training of the towers.

    Returns:
        The card, which is also written.

    Raises:
        TrainError: too few pairs, an unknown setting, a text tower without a last linear map with
            the method "texts", or the folder holds another run.
        PairsError: the pairs cannot be read.
        ModelError: the model cannot be read.
    """
    started, run = time.monotonic(), Path(run)
    if method not in get_args(Method):
        raise TrainError(
            "--method", f"unknown method {method!r}", f"use one of {', '.join(get_args(Method))}"
        )
    directory = find_model(model)
    with_settings(TrainConfig(read_config(directory), DataConfig(()), 1), settings)  # check them
    source = open_source(pairs)
    arguments = {
        "pairs": str(pairs),
        "model": fingerprint(directory),
        "method": method,
        "outside": str(outside) if outside else None,
        "settings": list(settings),
    }
    _claim(run, arguments, may_lose)
    frozen = FrozenModel(directory)
    if method == "texts" and not frozen.has_text_head:
        raise TrainError(
            frozen.config.name, "its text tower does not end with a linear map", "use --method lora"
        )
    data = FineTuneData(frozen, source, outside, method != "texts", progress)
    candidates = _candidates(data, run, method, minutes, settings, report)
    chosen = choose_candidate(candidates, may_lose)
    progress(Progress(0, 0, stage=f"Writing {run / 'model'}: {chosen.name()}"))
    result = _write_model(data, chosen, run, method, settings, report)
    progress(Progress(0, 0, stage="Testing the model before and after on held-out pairs"))
    card = Card(
        pairs=str(pairs),
        model=frozen.config.name,
        method=method,
        result=chosen.name(),
        stage=chosen.stage,
        trained_on=len(data.training),
        broken=data.broken,
        minutes=(time.monotonic() - started) / 60,
        may_lose=may_lose,
        own_outside=outside is not None,
        candidates=candidate_rows(candidates, chosen, may_lose),
        domain=measure(data.domain_test, frozen, result, chosen),
        outside=measure(data.outside_test, frozen, result, chosen),
    )
    write_card(card, run)
    return card


def _claim(run: Path, arguments: dict[str, Any], may_lose: float) -> None:
    """Begin in a new folder, or continue the run that was begun there with the same arguments."""
    another = "choose another folder"
    text = json.dumps(arguments, indent=2)
    path, card = run / SETTINGS, run / CARD_JSON
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise TrainError(run, "was begun with other arguments", another)
    if card.exists() and json.loads(card.read_text(encoding="utf-8"))["may_lose"] == may_lose:
        raise TrainError(
            run,
            "holds a finished fine-tuning",
            "choose another folder, or another --may-lose to choose again among its candidates",
        )
    if not path.exists() and run.exists() and any(run.iterdir()):
        raise TrainError(run, "is not empty", another)
    run.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text)


def _candidates(
    data: FineTuneData,
    run: Path,
    method: Method,
    minutes: float,
    settings: Sequence[str],
    report: ReportRow,
) -> list[Candidate]:
    """Make the candidates, or read those of a run that made them before."""
    path = run / CANDIDATES
    if path.exists():
        return read_candidates(path)
    candidates = make_text_candidates(data)
    if method != "texts":
        low_rank = method == "lora"
        candidates += make_tower_candidates(data, run, low_rank, minutes, settings, report)
    write_candidates(candidates, path)
    return candidates


def _write_model(
    data: FineTuneData,
    chosen: Candidate,
    run: Path,
    method: Method,
    settings: Sequence[str],
    report: ReportRow,
) -> Path:
    """Write the model directory of a candidate."""
    frozen, destination = data.frozen, run / "model"
    changed: Mapping[str, Tensor] = {}
    if chosen.update is not None:
        name = text_head_name(frozen.model)
        change = torch.from_numpy(chosen.update.matrix())
        changed = {name: frozen.model.state_dict()[name] + change}
    if chosen.stage == "towers":
        config = tuning_config(data, run / "start", method == "lora", settings)
        source = data.domain.training_source(data.folds[0].training)
        changed = mixed_weights(frozen, train_towers(config, run, source, report), chosen.value)()
    write_result(frozen, changed, destination)
    return destination


def measure(held_out: HeldOutSet, frozen: FrozenModel, after: Path, chosen: Candidate) -> Change:
    """Score the model before and the directory after as people will use them."""
    images, encoder = frozen.image_embeds(held_out.pictures), Encoder(after)
    hits_before = held_out.hits(images, frozen.encoder.encode_text(held_out.texts))
    if chosen.stage == "towers":  # otherwise the image tower is the same
        images = _image_embeds(encoder, held_out)
    hits_after = held_out.hits(images, encoder.encode_text(held_out.texts))
    return Change(
        name=held_out.name,
        measure=held_out.measure,
        pictures=len(held_out.pictures),
        before=float(hits_before.mean()),
        after=float(hits_after.mean()),
        interval=difference_interval(hits_before, hits_after),
    )


def _image_embeds(encoder: Encoder, held_out: HeldOutSet) -> Float32Array:
    return encoder.encode_image(list(held_out.pictures))
