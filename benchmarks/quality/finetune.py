"""Compare methods of fine-tuning: the gain on pictures held out, and the loss on other sources.

    python benchmarks/quality/finetune.py FOLDER [MODEL [SET [METHOD ...]]]

FOLDER/SET/train and FOLDER/SET/test hold pictures in folders with their class names, or pictures
with captions beside them; FOLDER/outside holds other sources in the same forms (one that has the
name of the set is left out). All methods are trained on `train`, chosen among their candidates by
the rule of `fit` with a loss of one point on half of its emoji, and scored on `test`, on the
sources of FOLDER/outside and on the other half of the emoji, which no choice has seen. Methods:

- texts: the default of `twotower train folder`.
- probe: linear maps after both towers, trained by Adam and mixed with the start (WiSE-FT); chosen
  by cross-validation on the same folds.
- flyp: both towers, trained by the contrastive loss on prompts and mixed with the start; chosen on
  the first fold.
- lp-ft: as flyp, from the probe.

Prints and writes rows of results/finetune.csv; rows of other models, sets and methods are kept.
Seconds are CPU time without the embedding of pictures.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.table import RESULTS, write_results
from twotower.arrays import Float32Array, Float64Array, normalize
from twotower.cli.train_progress import print_progress, print_row
from twotower.encode.load import find_model
from twotower.model.weight_files import save_weights
from twotower.model.weights import load_model
from twotower.pairs.sources import open_source
from twotower.train.finetune.candidates import Candidate, choose_candidate
from twotower.train.finetune.data import FineTuneData, label_texts
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.held_out import HeldOutSet, difference_interval
from twotower.train.finetune.image_features import image_features
from twotower.train.finetune.pair_set import PairSet, Sample
from twotower.train.finetune.text_parts import text_features
from twotower.train.finetune.texts import make_text_candidates
from twotower.train.finetune.towers import (
    MIXES,
    mixed_weights,
    train_towers,
    tuning_config,
)

METHODS = ("texts", "probe", "flyp", "lp-ft")
MAY_LOSE = 0.01
STEPS, RATE = 300, 1e-4  # of the probe
TOWER_MIXES = MIXES[1::2]  # each costs a pass of both towers over the pictures of the choice
COLUMNS = (
    *("model", "set", "trained_on", "method", "chosen", "scored_on", "measure", "pictures"),
    *("before", "after", "low", "high", "cpu_seconds"),
)

# the scores of the pictures of a set
Score = Callable[[HeldOutSet], Float64Array]


@dataclass(frozen=True)
class Result:
    """A chosen candidate: its name, and its scores of any set."""

    name: str
    score: Score


def main() -> None:
    folder = Path(sys.argv[1])
    model = sys.argv[2] if len(sys.argv) > 2 else "small"
    sets = sys.argv[3:4] or [path.parent.name for path in sorted(folder.glob("*/train"))]
    methods = sys.argv[4:] or METHODS
    frozen = FrozenModel(find_model(model))
    for name in sets:
        source = open_source(folder / name / "train")
        for method in methods:
            data = FineTuneData(frozen, source, None, method in ("flyp", "lp-ft"), print_progress())
            add_rows([(model, name, *row) for row in measure(method, data, folder, name)])


def measure(method: str, data: FineTuneData, folder: Path, name: str) -> list[tuple[str, ...]]:
    """Train with a method and score it on all held-out sets."""
    started = time.process_time()
    result = run_method(method, data)
    seconds = f"{time.process_time() - started:.0f}"
    before = frozen_score(data.frozen)
    rows = []
    test = open_held_out(data.frozen, folder / name / "test", data.domain)
    paths = [path for path in sorted((folder / "outside").iterdir()) if path.name != name]
    outside = [open_held_out(data.frozen, path) for path in paths]
    for held_out in (test, *outside, replace(data.outside_test, name="emoji")):
        hits, start = result.score(held_out), before(held_out)
        numbers = (start.mean(), hits.mean(), *difference_interval(start, hits))
        rows.append(
            (
                *(str(len(data.training)), method, result.name, held_out.name, held_out.measure),
                *(str(len(held_out.pictures)), *(f"{number:.4f}" for number in numbers), seconds),
            )
        )
    return rows


def open_held_out(frozen: FrozenModel, folder: Path, domain: PairSet | None = None) -> HeldOutSet:
    """Open a set; in the domain, with its class names."""
    source = open_source(folder)
    samples, _ = frozen.read(source, range(len(source)), print_progress())
    pairs = PairSet(source, frozen.config, samples)
    if domain and domain.classnames:
        pairs.classnames, pairs.templates = domain.classnames, domain.templates
    return pairs.hold_out("test" if domain else folder.name, samples)


def frozen_score(frozen: FrozenModel) -> Score:
    """Return the score of the model before."""
    return lambda held_out: held_out.hits(
        frozen.image_embeds(held_out.pictures), frozen.text_parts(held_out.texts).embeds()
    )


def run_method(method: str, data: FineTuneData) -> Result:
    """Make the candidates of a method, and choose."""
    if method == "texts":
        return run_texts(data)
    if method == "probe":
        return run_probe(data)
    return run_towers(data, from_probe=method == "lp-ft")


def run_texts(data: FineTuneData) -> Result:
    frozen = data.frozen
    chosen = choose_candidate(make_text_candidates(data), MAY_LOSE)
    return Result(
        chosen.name(),
        lambda held_out: held_out.hits(
            frozen.image_embeds(held_out.pictures),
            frozen.text_parts(held_out.texts).embeds(chosen.update),
        ),
    )


@dataclass(frozen=True)
class Maps:
    """Linear maps after the image tower and the text tower [embed_dim, embed_dim]."""

    image: Tensor
    text: Tensor

    def mixed(self, mix: float) -> Maps:
        unit = torch.eye(len(self.image))
        return Maps(unit.lerp(self.image, mix), unit.lerp(self.text, mix))

    def score(self, frozen: FrozenModel, held_out: HeldOutSet) -> Float64Array:
        images = frozen.image_embeds(held_out.pictures) @ self.image.numpy().T
        texts = frozen.text_parts(held_out.texts).embeds() @ self.text.numpy().T
        return held_out.hits(normalize(images), normalize(texts))


def run_probe(data: FineTuneData) -> Result:
    frozen, domain = data.frozen, data.domain
    probes = [train_maps(data, fold.training) for fold in data.folds]
    whole = train_maps(data, data.training)
    sets = [domain.hold_out("domain", fold.choosing) for fold in data.folds]
    candidates = []
    for mix in (0.0, *MIXES):
        hits = [
            probe.mixed(mix).score(frozen, held_out)
            for probe, held_out in zip(probes, sets, strict=True)
        ]
        outside = whole.mixed(mix).score(frozen, data.outside_choice)
        stage = "towers" if mix else "start"
        candidates.append(Candidate(stage, mix, np.concatenate(hits), outside))  # type: ignore[arg-type]
    mix = choose_candidate(candidates, MAY_LOSE).value
    chosen = whole.mixed(mix)
    return Result(f"mix {mix:.3g}", lambda held_out: chosen.score(frozen, held_out))


def train_maps(data: FineTuneData, samples: Sequence[Sample]) -> Maps:
    """Train the maps with the softmax over the texts of the pairs."""
    frozen = data.frozen
    texts, templates, labels = label_texts(data.domain, samples)
    count = len(texts) // templates
    images = torch.from_numpy(data.image_embeds(samples))
    text_embeds = torch.from_numpy(frozen.text_parts(texts[:count]).embeds())
    targets = torch.tensor(labels)
    maps = [torch.eye(images.shape[1], requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.Adam(maps, lr=RATE)
    for _ in range(STEPS):
        image_embeds = F.normalize(images @ maps[0].T, dim=-1)
        logits = (
            frozen.encoder.logit_scale
            * image_embeds
            @ F.normalize(text_embeds @ maps[1].T, dim=-1).T
        )
        loss = F.cross_entropy(logits, targets)
        if not data.domain.classnames:
            loss = loss + F.cross_entropy(logits[:, targets].T, torch.arange(len(targets)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return Maps(maps[0].detach(), maps[1].detach())


def run_towers(data: FineTuneData, from_probe: bool) -> Result:
    """Train both towers on the first fold, from the start or from the probe's image map."""
    frozen, [fold] = data.frozen, data.folds
    model = load_model(frozen.directory)
    weights = dict(frozen.model.state_dict())
    if from_probe:
        image_map = train_maps(data, fold.training).image
        weights |= {name: image_map @ weights[name] for name in head_names(weights)}
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)
        save_weights(frozen.config, weights, run / "start")
        config = tuning_config(data, run / "start", low_rank=False, settings=())
        source = data.domain.training_source(fold.training)
        after = train_towers(config, run, source, print_row)
    held_out = data.domain.hold_out("domain", fold.choosing)
    before = frozen_score(frozen)
    candidates = [Candidate("start", 0.0, before(held_out), before(data.outside_choice))]
    for mix in TOWER_MIXES:
        model.load_state_dict(mixed_weights(frozen, after, mix)())
        domain, outside = (
            torch_score(frozen, model, held_out_set)
            for held_out_set in (held_out, data.outside_choice)
        )
        candidates.append(Candidate("towers", mix, domain, outside))
    chosen = choose_candidate(candidates, MAY_LOSE)
    model.load_state_dict(mixed_weights(frozen, after, chosen.value)())
    return Result(
        f"mix {chosen.value:.3g} of {config.steps} steps",
        lambda held_out_set: torch_score(frozen, model, held_out_set),
    )


def head_names(weights: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors of the image tower's last linear map."""
    return [name for name in weights if name.startswith("vision.proj.")]


def torch_score(frozen: FrozenModel, model: torch.nn.Module, held_out: HeldOutSet) -> Float64Array:
    """Score a torch model."""
    images: Float32Array = normalize(image_features(model, held_out.pictures))  # type: ignore[arg-type]
    texts = normalize(text_features(model, held_out.texts, frozen.tokenizer))  # type: ignore[arg-type]
    return held_out.hits(images, texts)


def add_rows(rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows to the table; they replace those of the same model, set and method."""
    path = RESULTS / "finetune.csv"
    stored = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            stored = [tuple(row) for row in csv.reader(file)][1:]
    keys = {(row[0], row[1], row[3]) for row in rows}
    kept = [
        row for row in stored if len(row) == len(COLUMNS) and (row[0], row[1], row[3]) not in keys
    ]
    write_results("finetune.csv", COLUMNS, [*kept, *rows])


if __name__ == "__main__":
    main()
