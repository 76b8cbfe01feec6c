"""Candidates between a model and its towers trained on the pairs (FLYP and WiSE-FT).

Both towers are trained with the contrastive loss that the model was pre-trained with (Goyal et al.
2023, FLYP), in full or by low-rank updates; the weights are interpolated between start and end
(Wortsman et al. 2022, WiSE-FT).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from twotower.arrays import Float64Array, normalize
from twotower.model.clip import CLIP
from twotower.model.weight_files import save_weights
from twotower.model.weights import load_model
from twotower.pairs.pair import Source
from twotower.progress import Progress
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
from twotower.train.finetune.candidates import Candidate, interpolate
from twotower.train.finetune.data import FineTuneData
from twotower.train.finetune.frozen_model import FrozenModel, duration
from twotower.train.finetune.held_out import HeldOutSet
from twotower.train.finetune.image_features import image_features
from twotower.train.finetune.text_parts import text_features
from twotower.train.loop import run_steps
from twotower.train.run_log import ReportRow, ignore_row

EPOCHS = 5
MIXES = tuple(float(mix) for mix in np.geomspace(0.005, 1, 8))  # each costs a pass of both towers
MEMORY = 4 * 10**9  # bytes of the tuning; larger models take a batch in chunks, to the same effect


def make_tower_candidates(
    data: FineTuneData,
    run: Path,
    low_rank: bool,
    minutes: float,
    settings: Sequence[str],
    report: ReportRow,
) -> list[Candidate]:
    """Train both towers on the first fold, if that takes at most `minutes`."""
    frozen, [fold] = data.frozen, data.folds
    scored = len(MIXES) * (len(fold.choosing) + len(data.outside_choice.pictures))
    seconds = frozen.seconds_to_train(data.domain, fold.training, EPOCHS, scored)
    if seconds > 60 * minutes:
        stage = (
            f"The towers are not trained: that would take about {duration(seconds)} here "
            f"(--minutes {math.ceil(seconds / 60)} allows it)"
        )
        data.progress(Progress(0, 0, stage=stage))
        return []
    stage = f"Training both towers, {EPOCHS} times over the pairs, about {duration(seconds)}"
    data.progress(Progress(0, 0, stage=stage))
    save_weights(frozen.config, frozen.model.state_dict(), run / "start")
    config = tuning_config(data, run / "start", low_rank, settings)
    after = train_towers(config, run, data.domain.training_source(fold.training), report)
    sets = (data.domain.hold_out("domain", fold.choosing), data.outside_choice)
    model, candidates = load_model(frozen.directory), []
    stage = "Scoring mixtures of the weights before and after"
    for number, mix in enumerate(MIXES):
        data.progress(Progress(number, len(MIXES), stage=stage))
        model.load_state_dict(mixed_weights(frozen, after, mix)())
        domain, outside = (_hits(frozen, model, held_out) for held_out in sets)
        candidates.append(Candidate("towers", mix, domain, outside))
    return candidates


def _hits(frozen: FrozenModel, model: CLIP, held_out: HeldOutSet) -> Float64Array:
    """Score the model, which has other weights than the frozen one."""
    image_embeds = normalize(image_features(model, held_out.pictures))
    text_embeds = normalize(text_features(model, held_out.texts, frozen.tokenizer))
    return held_out.hits(image_embeds, text_embeds)


def mixed_weights(
    frozen: FrozenModel, after: Mapping[str, Tensor], mix: float
) -> Callable[[], Mapping[str, Tensor]]:
    """Return a function that interpolates between the weights before and after."""
    return partial(interpolate, frozen.model.state_dict(), after, mix)


def tuning_config(
    data: FineTuneData, start_from: Path, low_rank: bool, settings: Sequence[str]
) -> TrainConfig:
    """Configure the training of both towers."""
    [fold] = data.folds
    batch_size = min(64, len(fold.training))
    steps = EPOCHS * (len(fold.training) // batch_size)
    config = TrainConfig(
        model=data.frozen.config,
        data=DataConfig((data.domain.source.name,), batch_size, zoom=1.15, workers=1),
        steps=steps,
        start_from=str(start_from),
        tokenizer_files=str(data.frozen.text_directory),
        optimizer=OptimizerConfig(
            lr=3e-4 if low_rank else 3e-5,
            weight_decay=0.0,
            warmup_steps=max(1, steps // 10),
            lora=8 if low_rank else None,
            frozen_statistics=True,
        ),
        loss=LossConfig(multi_positive=True),
        memory=MemoryConfig(limit=MEMORY),
        output=OutputConfig(log_every=1, save_every=max(1, steps // EPOCHS), keep=1),
    )
    return with_settings(config, settings)


def train_towers(
    config: TrainConfig, run: Path, source: Source, report: ReportRow = ignore_row
) -> dict[str, Tensor]:
    """Train both towers, or continue from the last checkpoint; return the trained weights."""
    folder = run / "tuned"
    resume = "latest" if has_checkpoint(folder) else None
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return run_steps(config, folder, resume, report, sources=[source]).weights()
