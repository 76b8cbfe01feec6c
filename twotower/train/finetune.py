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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from twotower.encode.encoder import Encoder, normalize
from twotower.encode.export import write_directory
from twotower.encode.load import find_model
from twotower.inputs.tokenizer import Tokenizer, load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig
from twotower.model.weights import INT8, WEIGHTS_FILE, load_model, read_safetensors, save_weights
from twotower.pairs.sources import BrokenPairError, Pair, PartOfPairs, Source, open_source
from twotower.train.card import Card, Change, write_card
from twotower.train.config import TrainConfig, TrainError, with_settings
from twotower.train.embed_cache import EmbedCache, cache_of, model_key, sample_key
from twotower.train.exam import Exam, are_names, difference_interval, drawn_things, exam_of
from twotower.train.heads import head_of, image_features, text_features, without_heads
from twotower.train.loop import run_steps
from twotower.train.loss import clip_loss, siglip_loss

Method = Literal["probe", "full", "lora"]
FEWEST = 30  # pairs; with fewer, nothing held out says anything
HELD_OUT = 0.2  # share of the pairs that the choice is made by, and as much again for the report
MOST_OUTSIDE = 1000  # pairs of the user's own outside set that are looked at
PROBE_STEPS, PROBE_BATCH, PROBE_RATE = 300, 1024, 1e-3
LOOKS = 6  # at the probe while it learns; it may have learned enough before its end
PROBE_MIXES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
TUNE_MIXES = (0.25, 0.5, 0.75, 1.0)  # each is a pass of whole towers over what is held out
EPOCHS = 5
MEMORY = 4 * 10**9  # bytes of the tuning; larger models see a batch in chunks, to the same effect
BACKWARD = 2.5  # of a step beside its forward pass, in forward passes
SETTINGS, CARD = "fit.json", "card.json"

Say = Callable[[str], None]
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Sample:
    """A readable pair, without its picture."""

    number: int
    key: bytes
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """Weights that differ from the start's, and how they do where the choice is made."""

    stage: Literal["start", "probe", "tune"]
    mix: float  # 0 is the start, 1 the end of the stage
    tensors: Callable[[], Mapping[str, Tensor]]  # makes those that changed
    domain: float
    outside: float


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
        "model": model_key(directory),
        "method": method,
        "outside": str(outside) if outside else None,
        "may_lose": may_lose,
        "settings": list(settings),
    }
    _claim(run, asked)
    start = Start(directory)
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
    looks = Looks(start, choice, outside_choice)
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


def halves(exam: Exam) -> tuple[Exam, Exam]:
    """Outside questions to choose by and to report on, by the content of the pictures."""
    keys = [sample_key(picture) for picture in exam.pictures]
    sides = [[row for row, key in enumerate(keys) if key[0] % 2 == side] for side in (0, 1)]
    if not all(sides):
        raise TrainError(f"{exam.name}: too few outside pairs; give fifty or more")
    return exam.part(sides[0]), exam.part(sides[1])


class Pictures(Sequence[bytes]):
    """The stored pictures of samples, read when they are asked for."""

    def __init__(self, source: Source, samples: Sequence[Sample]) -> None:
        self.source, self.samples = source, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        """The picture of one of them."""
        return self.source[self.samples[index].number].picture


class Questions:
    """The user's pairs as exams and as something to learn from."""

    def __init__(self, source: Source, config: CLIPConfig, samples: Sequence[Sample]) -> None:
        self.source = source
        self.named = are_names([Pair("", b"", one.captions) for one in samples])
        self.names = sorted({one.captions[0] for one in samples}) if self.named else []
        self.templates = config.templates if self.named else ("{}",)

    def exam(self, name: str, samples: Sequence[Sample]) -> Exam:
        """What some of the samples ask."""
        pairs = [Pair("", b"", one.captions) for one in samples]
        exam = exam_of(name, pairs, self.templates[0], self.names)
        return replace(exam, pictures=Pictures(self.source, samples))

    def captions(self, sample: Sample) -> list[str]:
        """What a picture is learned with."""
        return [t.replace("{}", one) for one in sample.captions for t in self.templates]

    def to_learn(self, samples: Sequence[Sample]) -> PartOfPairs:
        """The pairs of `samples`."""
        return PartOfPairs(self.source, [one.number for one in samples], self.templates)

    @staticmethod
    def of_outside(location: str | Path, start: Start, say: Say) -> Exam:
        """The exam that the user's outside set makes, from up to `MOST_OUTSIDE` of its pairs."""
        source = open_source(location)
        step = max(1, len(source) // MOST_OUTSIDE)
        samples, _ = start.read(source, range(0, len(source), step)[:MOST_OUTSIDE], say)
        return Questions(source, start.config, samples).exam(source.name, samples)


def _read(source: Source, number: int) -> Sample | str:
    """A pair, or why it cannot be used."""
    try:
        pair = source[number]
    except BrokenPairError as error:
        return f"{source.key(number)}: {error}"
    return Sample(number, sample_key(pair.picture), pair.captions)


# --- the model to start from ---------------------------------------------------------------------


class Start:
    """The model as it is: towers that are looked through once, and the heads that may change."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = load_model(directory)
        self.config = self.model.config
        self.tokenizer: Tokenizer = load_tokenizer(self.config.tokenizer, directory)
        self.int8 = any(name.endswith(INT8) for name in read_safetensors(directory / WEIGHTS_FILE))
        key = model_key(directory)
        self.seen: EmbedCache = cache_of(key, "image-features")
        self.heard: EmbedCache = cache_of(key, "text-features")

    def read(
        self, source: Source, numbers: Sequence[int], say: Say
    ) -> tuple[list[Sample], list[str]]:
        """The pairs of `numbers` that can be used, and why the others cannot."""
        found = [_read(source, number) for number in numbers]
        samples = [one for one in found if isinstance(one, Sample)]
        broken = [one for one in found if isinstance(one, str)]
        if not samples:
            return [], broken
        features = self.image_features(Pictures(source, samples), [one.key for one in samples], say)
        good = np.isfinite(features[:, 0])
        broken += [
            f"{source.key(one.number)}: cannot be decoded"
            for one, fine in zip(samples, good, strict=True)
            if not fine
        ]
        return [one for one, fine in zip(samples, good, strict=True) if fine], broken

    def image_features(
        self, pictures: Sequence[bytes], keys: Sequence[bytes], say: Say = lambda text: None
    ) -> NDArray[np.float32]:
        """What the head of the picture tower is given: [n, width]."""

        def compute(chosen: list[int]) -> NDArray[np.float32]:
            say(f"looking at {len(chosen)} pictures")
            with without_heads(self.model):
                return image_features(self.model, (pictures[i] for i in chosen))

        self.seen.fill(keys, compute)
        return self.seen[keys]

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the head of the text tower is given: [n, width]."""
        keys = [sample_key(text) for text in texts]

        def compute(chosen: list[int]) -> NDArray[np.float32]:
            with without_heads(self.model):
                return text_features(self.model, [texts[i] for i in chosen], self.tokenizer)

        self.heard.fill(keys, compute)
        return self.heard[keys]

    def seconds_to_tune(self, domain: Questions, learn: Sequence[Sample]) -> float:
        """From one forward pass of a few pairs."""
        few = learn[:8]
        pictures = list(Pictures(domain.source, few))
        begun = time.perf_counter()
        image_features(self.model, pictures)
        text_features(self.model, [domain.captions(one)[0] for one in few], self.tokenizer)
        forward = (time.perf_counter() - begun) / len(few)
        return (1 + BACKWARD) * forward * len(learn) * EPOCHS


# --- candidates ----------------------------------------------------------------------------------


class Looks:
    """How candidates do on what the choice is made by."""

    def __init__(self, start: Start, domain: Exam, outside: Exam) -> None:
        self.start, self.exams = start, (domain, outside)
        self.features = [
            (
                start.image_features(exam.pictures, [sample_key(one) for one in exam.pictures]),
                start.text_features(exam.texts),
            )
            for exam in self.exams
        ]

    def at_start(self) -> Candidate:
        """The model as it is."""
        return self.at_heads(0.0, heads_of(self.start.model))

    def at_heads(self, mix: float, heads: Mapping[str, Tensor]) -> Candidate:
        """The start's towers with other heads, on features that are there."""
        scores = []
        for exam, (images, texts) in zip(self.exams, self.features, strict=True):
            image_embeds = normalize(_through_head(images, "vision", heads))
            text_embeds = normalize(_through_head(texts, "text", heads))
            scores.append(float(exam.hits(image_embeds, text_embeds).mean()))
        return Candidate("probe" if mix else "start", mix, lambda: heads, *scores)

    def at_weights(
        self, mix: float, model: CLIP, tensors: Callable[[], Mapping[str, Tensor]]
    ) -> Candidate:
        """`model`, which holds what `tensors` makes."""
        scores = []
        for exam in self.exams:
            image_embeds = normalize(image_features(model, exam.pictures))
            text_embeds = normalize(text_features(model, exam.texts, self.start.tokenizer))
            scores.append(float(exam.hits(image_embeds, text_embeds).mean()))
        return Candidate("tune", mix, tensors, *scores)


def heads_of(model: CLIP) -> dict[str, Tensor]:
    """The parameters of both last linear maps, by their names in the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [head for head in (head_of(model.vision), head_of(model.text)) if head]
    return {
        names[id(parameter)]: parameter.detach()
        for holder, name in found
        for parameter in getattr(holder, name).parameters()
    }


def _through_head(
    features: NDArray[np.float32] | Tensor, tower: str, heads: Mapping[str, Tensor]
) -> Any:
    """[n, width] -> [n, embed_dim]; as they are for a tower without a head."""
    own = {name: one for name, one in heads.items() if name.startswith(f"{tower}.")}
    if not own:
        return features
    [weight] = [one for name, one in own.items() if name.endswith(".weight")]
    bias = next((one for name, one in own.items() if name.endswith(".bias")), None)
    if isinstance(features, Tensor):
        return F.linear(features, weight, bias)
    return F.linear(torch.from_numpy(features), weight, bias).numpy()


def probe(
    start: Start, domain: Questions, learn: Sequence[Sample], looks: Looks
) -> tuple[dict[str, Tensor], list[Candidate]]:
    """Train the last linear maps alone, on features.

    Returns:
        The heads that did best on the domain, and candidates on the way to them.
    """
    captions = [domain.captions(one) for one in learn]
    texts = sorted({text for said in captions for text in said})
    index = {text: row for row, text in enumerate(texts)}
    choices = [[index[text] for text in said] for said in captions]
    seen = start.image_features(Pictures(domain.source, learn), [one.key for one in learn])
    images, words = torch.from_numpy(seen), torch.from_numpy(start.text_features(texts))

    before = heads_of(start.model)
    heads = {name: one.clone().requires_grad_() for name, one in before.items()}
    optimizer = torch.optim.AdamW(heads.values(), lr=PROBE_RATE, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PROBE_STEPS)
    random = np.random.default_rng(0)
    ends: list[tuple[float, dict[str, Tensor]]] = []
    candidates: list[Candidate] = []
    for step in range(1, PROBE_STEPS + 1):
        rows = random.permutation(len(learn))[:PROBE_BATCH]
        said = torch.tensor([choices[row][int(random.integers(len(choices[row])))] for row in rows])
        loss = _head_loss(start.model, heads, images[rows], words[said], said)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        if step % (PROBE_STEPS // LOOKS) == 0:
            now = {name: one.detach().clone() for name, one in heads.items()}
            found = [looks.at_heads(mix, _between(before, now, mix)) for mix in PROBE_MIXES]
            candidates += found
            ends.append((found[-1].domain, now))
    _, end = max(ends, key=lambda one: one[0])
    return end, candidates


def _head_loss(
    model: CLIP, heads: Mapping[str, Tensor], images: Tensor, words: Tensor, said: Tensor
) -> Tensor:
    """The loss that the model was trained with; equal texts belong to each other's pictures."""
    image_embeds = F.normalize(_through_head(images, "vision", heads), dim=-1)
    text_embeds = F.normalize(_through_head(words, "text", heads), dim=-1)
    logits = model.logit_scale.detach().exp() * image_embeds @ text_embeds.T
    positives = said[:, None] == said
    if model.logit_bias is None:
        return clip_loss(logits, positives)
    return siglip_loss(logits + model.logit_bias.detach(), positives)


def _between(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], mix: float
) -> dict[str, Tensor]:
    """(1 - mix) * before + mix * after; counters as they are after."""
    return {
        name: torch.lerp(before[name], one, mix) if one.is_floating_point() else one
        for name, one in after.items()
    }


def tune(
    start: Start,
    end: Mapping[str, Tensor],
    domain: Questions,
    learn: Sequence[Sample],
    looks: Looks,
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


def choose_candidate(candidates: Sequence[Candidate], may_lose: float) -> Candidate:
    """The best on the domain of those that keep the outside score; of equals, the one that keeps
    most of it. The start comes first and is always allowed."""
    least = candidates[0].outside - may_lose
    allowed = [candidates[0], *(one for one in candidates if one.outside >= least - 1e-9)]
    return max(allowed, key=lambda one: (one.domain, one.outside))


def write_mix(start: Start, chosen: Candidate, destination: Path) -> Path:
    """The model directory of a candidate, in the precision of the start."""
    tensors = start.model.state_dict() | dict(chosen.tensors())
    file = start.config.tokenizer.file
    files = [start.directory / file] if file else []
    shutil.rmtree(destination, ignore_errors=True)  # of a run that was stopped after it
    write_directory(start.config, tensors, files, destination, start.int8)
    return destination


def measure(exam: Exam, before: Path, after: Path) -> Change:
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


def _answer(exam: Exam, encoder: Encoder) -> NDArray[np.float64]:
    none = np.zeros(encoder.config.embed_dim, np.float32)  # a picture that cannot be read
    found = encoder.stream(exam.pictures)
    image_embeds = np.stack(
        [none if one.image_embeds is None else one.image_embeds for one in found]
    )
    return exam.hits(image_embeds, encoder.encode_text(exam.texts))
