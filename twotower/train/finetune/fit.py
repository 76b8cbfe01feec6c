"""A model made better at one's own pictures, and what that costs elsewhere: `fit`.

1. Probe: the last linear maps of both towers learn, on features that are computed once.
2. Tune: from there, the towers learn too (Kumar et al. 2022, LP-FT), with the contrastive loss that
   the model was pre-trained with (Goyal et al. 2023, FLYP); in full or by low-rank updates.
3. Mix: weights between the start and the end (Wortsman et al. 2022, WiSE-FT). How far to go is
   chosen on pairs that were held out, among mixtures that lose hardly anything on an outside set.
4. Report: start and result answer other held-out pairs, and outside questions that nothing was
   chosen by.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from twotower.encode.convert import write_directory
from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.encode.load import find_model
from twotower.errors import TrainError
from twotower.model.weights import load_model, save_weights
from twotower.pairs.sources import open_source
from twotower.train.config import TrainConfig, with_settings
from twotower.train.embed_cache import sample_key
from twotower.train.finetune.candidates import (
    Candidate,
    CandidateScorer,
    _between,
    choose_candidate,
)
from twotower.train.finetune.held_out import (
    HeldOutSet,
    difference_interval,
    drawn_things,
)
from twotower.train.finetune.probe import probe
from twotower.train.finetune.report import Card, Change, write_card
from twotower.train.finetune.start import EPOCHS, FrozenModel, Questions, Sample, Say
from twotower.train.loop import run_steps

Method = Literal["probe", "full", "lora"]
FEWEST = 30  # pairs; with fewer, nothing held out says anything
HELD_OUT = 0.2  # share of the pairs that the choice is made by, and as much again for the report
TUNE_MIXES = (0.25, 0.5, 0.75, 1.0)  # each is a pass of whole towers over what is held out
MEMORY = 4 * 10**9  # bytes of the tuning; larger models see a batch in chunks, to the same effect
SETTINGS, CARD = "fit.json", "card.json"
Report = Callable[[dict[str, Any]], None]


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
    say: Say = lambda text: None,
    report: Report | None = None,
) -> Card:
    """Fine-tune a model on one's own pictures, and say what was gained and lost.

    Writes `RUN/model` (a model directory), `RUN/card.md` and `RUN/card.json`. Started again with
    the same arguments, a run that was stopped goes on.

    Args:
        pairs: pictures with captions, as `open_source` takes them; or pictures in folders that are
            called what they show.
        run: a new folder.
        model: as `load` takes it; the bundled one by default.
        method: "probe" trains the last linear maps alone; "full" then all weights, "lora" then
            low-rank updates of them.
        outside: pairs (or named folders) that the model should not get worse at; by default
            emoji of everyday things, which is a weak stand-in for what you care about.
        may_lose: how much of the outside score may be given up, of 1.
        minutes: the towers are left alone where tuning them would take longer.
        settings: `NAME=VALUE` overrides of the `TrainConfig` of the tuning.
        say: is told what happens, a line at a time. report: is told each logged step.

    Raises:
        TrainError: too few pairs, a setting that is none, or the folder holds another run.
        PairsError, ModelNotFoundError: the pairs or the model cannot be read.
    """
    started, run = time.monotonic(), Path(run)
    if method not in get_args(Method):
        raise TrainError(f"method {method!r}; there are {', '.join(get_args(Method))}")
    directory = find_model(model)
    source = open_source(pairs)
    asked = {
        "pairs": str(pairs),
        "model": fingerprint(directory),
        "method": method,
        "outside": str(outside) if outside else None,
        "may_lose": may_lose,
        "settings": list(settings),
    }
    _claim(run, asked)
    start = FrozenModel(directory)
    with_settings(TrainConfig(start.config, (), 1), list(settings))  # a mistake shows now
    say(f"reading {len(source)} pairs and what {start.config.name} sees in them")
    samples, broken = start.read(source, range(len(source)), say)
    if len(samples) < FEWEST:
        raise TrainError(
            f"{source.name}: {len(samples)} readable pairs; fine-tuning takes {FEWEST} or more, "
            "since two fifths are held out to measure it"
        )
    learn, choose, final = split(samples)
    domain = Questions(source, start.config, samples)
    choice, verdict = domain.exam("domain", choose), domain.exam("domain", final)
    outside_exam = (
        Questions.of_outside(outside, start, say)
        if outside
        else drawn_things(start.config.templates[0])
    )
    outside_choice, outside_verdict = halves(outside_exam)
    looks = CandidateScorer(start, choice, outside_choice)
    candidates = [looks.at_start()]

    say(f"probe: the last linear maps learn from {len(learn)} pairs")
    end, found = probe(start, domain, learn, looks)
    candidates += found
    if method != "probe":
        seconds = start.seconds_to_tune(domain, learn)
        if seconds > 60 * minutes:
            say(
                f"the towers are left alone: tuning them would take about {seconds / 60:.0f} "
                f"minutes here (--minutes {math.ceil(seconds / 60)} allows it)"
            )
        else:
            say(f"tune: both towers learn, {EPOCHS} times over the pairs, about {seconds:.0f} s")
            candidates += tune(start, end, domain, learn, looks, run, method, settings, report)
    best = choose_candidate(candidates, may_lose)
    say(f"chosen: {best.stage}, {best.mix:.0%} of the way; writing {run / 'model'}")
    result = write_mix(start, best, run / "model")
    say("asking what was held out, before and after")
    card = Card(
        pairs=str(pairs),
        model=start.config.name,
        method=method,
        stage=best.stage,
        mix=best.mix,
        learned_from=len(learn),
        chosen_by=len(choose),
        broken=broken,
        minutes=(time.monotonic() - started) / 60,
        may_lose=may_lose,
        own_outside=outside is not None,
        domain=measure(verdict, directory, result),
        outside=measure(outside_verdict, directory, result),
    )
    write_card(card, run)
    return card


def _claim(run: Path, asked: dict[str, Any]) -> None:
    """Begin in a new folder, or go on with the same that was begun there."""
    text = json.dumps(asked, indent=2)
    path = run / SETTINGS
    if (run / CARD).exists():
        raise TrainError(f"{run}: holds a finished fine-tuning; choose another folder")
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise TrainError(f"{run}: was begun with other arguments; choose another folder")
    if not path.exists() and run.exists() and any(run.iterdir()):
        raise TrainError(f"{run}: is not empty; choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Those to learn from, to choose by, and to report on; equal pictures stay on one side."""
    ordered = sorted(samples, key=lambda one: one.key)
    cuts = [round(len(ordered) * share) for share in (1 - 2 * HELD_OUT, 1 - HELD_OUT)]
    for index, cut in enumerate(cuts):
        while 0 < cut < len(ordered) and ordered[cut].key == ordered[cut - 1].key:
            cut += 1
        cuts[index] = cut
    first, second = cuts
    return ordered[:first], ordered[first:second], ordered[second:]


def halves(exam: HeldOutSet) -> tuple[HeldOutSet, HeldOutSet]:
    """Outside questions to choose by and to report on, by the content of the pictures."""
    keys = [sample_key(picture) for picture in exam.pictures]
    sides = [[row for row, key in enumerate(keys) if key[0] % 2 == side] for side in (0, 1)]
    if not all(sides):
        raise TrainError(f"{exam.name}: too few outside pairs; give fifty or more")
    return exam.part(sides[0]), exam.part(sides[1])


def tune(
    start: FrozenModel,
    end: Mapping[str, Tensor],
    domain: Questions,
    learn: Sequence[Sample],
    looks: CandidateScorer,
    run: Path,
    method: Method,
    settings: Sequence[str],
    report: Report | None,
) -> list[Candidate]:
    """Train both towers from the probe's end, and look at mixtures of the start and the result."""
    before = {name: one.clone() for name, one in start.model.state_dict().items()}
    probed = run / "probed"
    save_weights(start.config, before | dict(end), probed)
    batch_size = min(64, len(learn))
    steps = EPOCHS * (len(learn) // batch_size)
    config = TrainConfig(
        model=start.config,
        sources=(domain.source.name,),
        steps=steps,
        batch_size=batch_size,
        start_from=str(probed),
        tokenizer_files=str(start.directory),
        learning_rate=3e-4 if method == "lora" else 3e-5,
        lora=8 if method == "lora" else None,
        weight_decay=0.0,
        warmup_steps=max(1, steps // 10),
        frozen_statistics=True,
        zoom=1.15,
        multi_positive=True,
        memory=MEMORY,
        workers=1,
        log_every=1,
        save_every=max(1, steps // EPOCHS),
        keep=1,
    )
    config = with_settings(config, list(settings))
    tuned = run / "tuned"
    resume = "latest" if any(tuned.glob("checkpoints/[0-9]*/state.json")) else None
    if not resume:
        shutil.rmtree(tuned, ignore_errors=True)
    after = run_steps(config, tuned, resume, report, [domain.to_learn(learn)]).weights()
    model = load_model(start.directory)
    found = []
    for mix in TUNE_MIXES:
        tensors = partial(_between, before, after, mix)
        model.load_state_dict(tensors())
        found.append(looks.at_weights(mix, model, tensors))
    return found


def write_mix(start: FrozenModel, chosen: Candidate, destination: Path) -> Path:
    """The model directory of a candidate, in the precision of the start."""
    tensors = start.model.state_dict() | dict(chosen.tensors())
    file = start.config.tokenizer.file
    files = [start.directory / file] if file else []
    shutil.rmtree(destination, ignore_errors=True)  # of a run that was stopped after it
    write_directory(start.config, tensors, files, destination, start.int8)
    return destination


def measure(exam: HeldOutSet, before: Path, after: Path) -> Change:
    """An exam's score with both model directories, as people will use them."""
    first, second = (_answer(exam, Encoder(directory)) for directory in (before, after))
    return Change(
        name=exam.name,
        measure=exam.measure,
        pictures=len(exam.pictures),
        before=float(first.mean()),
        after=float(second.mean()),
        interval=difference_interval(first, second),
    )


def _answer(exam: HeldOutSet, encoder: Encoder) -> NDArray[np.float64]:
    none = np.zeros(encoder.config.embed_dim, np.float32)  # a picture that cannot be read
    found = encoder.stream(exam.pictures)
    image_embeds = np.stack(
        [none if one.image_embeds is None else one.image_embeds for one in found]
    )
    return exam.hits(image_embeds, encoder.encode_text(exam.texts))
