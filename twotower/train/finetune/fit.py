"""Fine-tune a model on one's own pictures and measure the effect elsewhere: `fit`.

1. Probe: train the last linear maps of both towers, on features that are computed once.
2. Tune: continue with both towers (Kumar et al. 2022, LP-FT), with the contrastive loss that the
   model was pre-trained with (Goyal et al. 2023, FLYP); in full or by low-rank updates.
3. Mix: interpolate the weights before and after (Wortsman et al. 2022, WiSE-FT). The mixture is
   chosen on held-out pairs, among those that lose little on an outside set.
4. Report: score the model before and after on other held-out pairs and other outside pictures.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from twotower.arrays import Float64Array
from twotower.encode.convert import vocabulary_files, write_directory
from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.encode.load import find_model
from twotower.errors import TrainError
from twotower.files import atomic_write
from twotower.model.config import read_config
from twotower.model.weight_files import save_weights
from twotower.model.weights import keep_unchanged, load_model, read_stored
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.train.checkpoint import has_checkpoint
from twotower.train.config import (
    DataConfig,
    LossConfig,
    MemoryConfig,
    OptimizerConfig,
    OutputConfig,
    TrainConfig,
    with_settings,
)
from twotower.train.embed_cache import sample_key
from twotower.train.finetune.candidates import (
    Candidate,
    CandidateScorer,
    choose_candidate,
    interpolate,
)
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.held_out import HeldOutSet, difference_interval, hold_out_emoji
from twotower.train.finetune.pair_set import PairSet, Sample
from twotower.train.finetune.probe import train_probe
from twotower.train.finetune.report import CARD_JSON, Card, Change, write_card
from twotower.train.loop import run_steps
from twotower.train.run_log import ReportRow, ignore_row

Method = Literal["probe", "full", "lora"]
MIN_PAIRS = 30  # with fewer, the held-out pairs show nothing
HELD_OUT = 0.2  # the share of pairs to choose by, and the share to report on
MAX_OUTSIDE = 1000  # pairs of the user's outside set
EPOCHS = 5
TUNE_MIXES = (0.25, 0.5, 0.75, 1.0)  # each costs a pass of both towers over the held-out pairs
MEMORY = 4 * 10**9  # bytes of the tuning; larger models take a batch in chunks, to the same effect
SETTINGS = "fit.json"


def fit(
    pairs: str | Path,
    run: str | Path,
    *,
    model: str | Path | None = None,
    method: Method = "full",
    outside: str | Path | None = None,
    may_lose: float = 0.01,
    minutes: float = 10.0,
    settings: Sequence[str] = (),
    progress: ReportProgress = ignore_progress,
    report: ReportRow = ignore_row,
) -> Card:
    """Fine-tune a model on one's own pictures, and measure gain and loss.

    Writes `RUN/model` (a model directory), `RUN/card.md` and `RUN/card.json`. If a run was stopped,
    a call with the same arguments continues it.

    Args:
        pairs: pictures with captions, as `open_source` takes them; or pictures in folders that are
            named after their content.
        run: a new folder.
        model: as `load` takes it; the bundled one by default.
        method: "probe" trains the last linear maps alone; "full" then all weights, "lora" then
            low-rank updates of them.
        outside: pairs (or named folders) that the model should not get worse at; by default
            emoji of everyday things, which are a weak stand-in for photographs.
        may_lose: the loss of outside score that is allowed, of 1.
        minutes: the towers are not tuned if that would take longer.
        settings: `NAME=VALUE` overrides of the `TrainConfig` of the tuning.
        progress: is called with the stages and their state.
        report: is called with each logged row of the tuning.

    Returns:
        The card, which is also written.

    Raises:
        TrainError: too few pairs, an unknown setting, or the folder holds another run.
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
        "may_lose": may_lose,
        "settings": list(settings),
    }
    _claim(run, arguments)
    data = FineTuneData(FrozenModel(directory), source, outside, progress)
    candidates = _make_candidates(data, run, method, minutes, settings, progress, report)
    chosen = choose_candidate(candidates, may_lose)
    stage = f"Writing {run / 'model'}: {chosen.stage}, {chosen.mix:.0%} of the way"
    progress(Progress(0, 0, stage=stage))
    result = write_candidate(data.frozen, chosen, run / "model")
    progress(Progress(0, 0, stage="Testing the model before and after on held-out pairs"))
    card = Card(
        pairs=str(pairs),
        model=data.frozen.config.name,
        method=method,
        stage=chosen.stage,
        mix=chosen.mix,
        learned_from=len(data.training),
        chosen_by=len(data.choosing),
        broken=data.broken,
        minutes=(time.monotonic() - started) / 60,
        may_lose=may_lose,
        own_outside=outside is not None,
        domain=measure(data.domain_test, directory, result),
        outside=measure(data.outside_test, directory, result),
    )
    write_card(card, run)
    return card


def _claim(run: Path, arguments: dict[str, Any]) -> None:
    """Begin in a new folder, or continue the run that was begun there with the same arguments."""
    another = "choose another folder"
    text = json.dumps(arguments, indent=2)
    path = run / SETTINGS
    if (run / CARD_JSON).exists():
        raise TrainError(run, "holds a finished fine-tuning", another)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise TrainError(run, "was begun with other arguments", another)
    if not path.exists() and run.exists() and any(run.iterdir()):
        raise TrainError(run, "is not empty", another)
    run.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text)


class FineTuneData:
    """The pairs of a fine-tuning: to train on, to choose weights by, and to report on."""

    def __init__(
        self,
        frozen: FrozenModel,
        source: Source,
        outside: str | Path | None,
        progress: ReportProgress,
    ) -> None:
        """Read all pairs. Raises `TrainError` if there are too few."""
        self.frozen = frozen
        samples, self.broken = frozen.read(source, range(len(source)), progress)
        if len(samples) < MIN_PAIRS:
            raise TrainError(
                source.name,
                f"{len(samples)} readable pairs; fine-tuning takes {MIN_PAIRS} or more, since two "
                "fifths are held out to measure it",
                "give more pairs",
            )
        self.domain = PairSet(source, frozen.config, samples)
        self.training, self.choosing, testing = split(samples)
        self.domain_choice = self.domain.hold_out("domain", self.choosing)
        self.domain_test = self.domain.hold_out("domain", testing)
        if outside:
            outside_set = open_outside(outside, frozen, progress)
        else:
            outside_set = hold_out_emoji(frozen.config.templates[0])
        self.outside_choice, self.outside_test = halve(outside_set)


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Divide samples into those to train on, to choose by and to report on.

    The division depends on the content of the pictures alone; equal pictures stay together.
    """
    ordered = sorted(samples, key=lambda sample: sample.key)
    cuts = [round(len(ordered) * share) for share in (1 - 2 * HELD_OUT, 1 - HELD_OUT)]
    for index, cut in enumerate(cuts):
        while 0 < cut < len(ordered) and ordered[cut].key == ordered[cut - 1].key:
            cut += 1
        cuts[index] = cut
    choosing, testing = cuts
    return ordered[:choosing], ordered[choosing:testing], ordered[testing:]


def open_outside(location: str | Path, frozen: FrozenModel, progress: ReportProgress) -> HeldOutSet:
    """Make a held-out set of up to `MAX_OUTSIDE` pairs of the user's outside set."""
    source = open_source(location)
    step = max(1, len(source) // MAX_OUTSIDE)
    samples, _ = frozen.read(source, range(0, len(source), step)[:MAX_OUTSIDE], progress)
    return PairSet(source, frozen.config, samples).hold_out(source.name, samples)


def halve(held_out: HeldOutSet) -> tuple[HeldOutSet, HeldOutSet]:
    """Divide a set into one to choose by and one to report on, by the content of the pictures."""
    keys = [sample_key(picture) for picture in held_out.pictures]
    halves = [[row for row, key in enumerate(keys) if key[0] % 2 == half] for half in (0, 1)]
    if not all(halves):
        raise TrainError(held_out.name, "too few outside pairs", "give fifty or more")
    return held_out.subset(halves[0]), held_out.subset(halves[1])


def _make_candidates(
    data: FineTuneData,
    run: Path,
    method: Method,
    minutes: float,
    settings: Sequence[str],
    progress: ReportProgress,
    report: ReportRow,
) -> list[Candidate]:
    """Train the last layers, then the towers if time allows; the model before comes first."""
    frozen, pairs = data.frozen, data.domain
    scorer = CandidateScorer(frozen, data.domain_choice, data.outside_choice)
    candidates = [scorer.score_start()]
    heads, probes = train_probe(frozen, pairs, data.training, scorer, progress)
    candidates += probes
    if method == "probe":
        return candidates
    seconds = frozen.seconds_to_train(pairs, data.training, EPOCHS)
    if seconds > 60 * minutes:
        stage = (
            f"The towers are not tuned: that would take about {seconds / 60:.0f} minutes here "
            f"(--minutes {math.ceil(seconds / 60)} allows it)"
        )
        progress(Progress(0, 0, stage=stage))
        return candidates
    stage = f"Tuning both towers, {EPOCHS} times over the pairs, about {seconds:.0f} s"
    progress(Progress(0, 0, stage=stage))
    before = {name: tensor.clone() for name, tensor in frozen.model.state_dict().items()}
    save_weights(frozen.config, before | heads, run / "probed")
    config = _tuning_config(data, run / "probed", method, settings)
    after = tune(config, run / "tuned", pairs.training_source(data.training), report)
    model = load_model(frozen.directory)
    for mix in TUNE_MIXES:
        tensors = partial(interpolate, before, after, mix)
        model.load_state_dict(tensors())
        candidates.append(scorer.score_weights(mix, model, tensors))
    return candidates


def _tuning_config(
    data: FineTuneData, start_from: Path, method: Method, settings: Sequence[str]
) -> TrainConfig:
    """Configure the training of both towers from the best probe."""
    lora = method == "lora"
    batch_size = min(64, len(data.training))
    steps_per_epoch = len(data.training) // batch_size
    steps = EPOCHS * steps_per_epoch
    config = TrainConfig(
        model=data.frozen.config,
        data=DataConfig((data.domain.source.name,), batch_size, zoom=1.15, workers=1),
        steps=steps,
        start_from=str(start_from),
        tokenizer_files=str(data.frozen.text_directory),
        optimizer=OptimizerConfig(
            lr=3e-4 if lora else 3e-5,
            weight_decay=0.0,
            warmup_steps=max(1, steps // 10),
            lora=8 if lora else None,
            frozen_statistics=True,
        ),
        loss=LossConfig(multi_positive=True),
        memory=MemoryConfig(limit=MEMORY),
        output=OutputConfig(log_every=1, save_every=max(1, steps // EPOCHS), keep=1),
    )
    return with_settings(config, settings)


def tune(
    config: TrainConfig, run: Path, source: Source, report: ReportRow = ignore_row
) -> dict[str, Tensor]:
    """Train both towers, or continue from the last checkpoint; return the trained weights."""
    resume = "latest" if has_checkpoint(run) else None
    if not resume:
        shutil.rmtree(run, ignore_errors=True)
    return run_steps(config, run, resume, report, sources=[source]).weights()


def write_candidate(frozen: FrozenModel, chosen: Candidate, destination: Path) -> Path:
    """Write the model directory of a candidate; what is unchanged keeps its stored precision."""
    tensors = keep_unchanged(
        read_stored(read_config(frozen.directory), frozen.directory),
        frozen.model.state_dict() | dict(chosen.tensors()),
    )
    files = vocabulary_files(frozen.config, frozen.text_directory)
    shutil.rmtree(destination, ignore_errors=True)  # of a run that was stopped after it
    write_directory(frozen.config, tensors, files, destination, frozen.int8)
    return destination


def measure(held_out: HeldOutSet, before: Path, after: Path) -> Change:
    """Score two model directories as people will use them."""
    hits_before, hits_after = (_hits(held_out, Encoder(model)) for model in (before, after))
    return Change(
        name=held_out.name,
        measure=held_out.measure,
        pictures=len(held_out.pictures),
        before=float(hits_before.mean()),
        after=float(hits_after.mean()),
        interval=difference_interval(hits_before, hits_after),
    )


def _hits(held_out: HeldOutSet, encoder: Encoder) -> Float64Array:
    blank = np.zeros(encoder.config.embed_dim, np.float32)  # of an unreadable picture
    image_embeds = np.stack(
        [
            blank if row.image_embeds is None else row.image_embeds
            for row in encoder.stream(held_out.pictures)
        ]
    )
    return held_out.hits(image_embeds, encoder.encode_text(held_out.texts))
