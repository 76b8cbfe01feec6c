"""Training of a head that answers questions, on frozen towers.

The outputs of the towers are computed once and cached (`features.py`), so a run that was stopped
finds them again. Batches are made of pictures, with all questions about each.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.arrays import Float64Array
from twotower.encode.convert import new_directory
from twotower.encode.golden import golden_hash
from twotower.encode.onnx import write_head
from twotower.encode.patches import UnpooledEncoder
from twotower.errors import TrainError
from twotower.model.answer_head import FusionHead
from twotower.model.config import FusionConfig
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.train.vqa.data import Sample, read_samples
from twotower.train.vqa.features import FrozenFeatures
from twotower.train.vqa.prior import Prior

MAX_ANSWERS = 1000
HELD_OUT = 0.1  # the share of pictures to test with, if no test set is given
PICTURES = 32  # in a batch, with all their questions
ANSWERED = 256  # questions that are answered together
LR, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 0.05
KIND_WORDS = 2  # the first words of a question are its kind


@dataclass(frozen=True)
class Scores:
    """Scores on questions that were not trained on.

    Attributes:
        head: VQA's score of each sample [n], by the head.
        prior: the same, by the most frequent answer to the question, whatever the picture.
        kinds: the first words of each question.
        unreadable: a line about each unreadable picture.
    """

    head: Float64Array
    prior: Float64Array
    kinds: list[str]
    unreadable: list[str]


def train_vqa(
    data: Path,
    destination: Path,
    model: Path,
    *,
    test: Path | None = None,
    epochs: int = 12,
    seed: int = 0,
    progress: ReportProgress = ignore_progress,
) -> Scores:
    """Train a head and write it to `destination`.

    Args:
        data: questions with answers, as `read_samples` takes them.
        model: the model directory with the towers.
        test: questions to test with; by default those about a tenth of the pictures of `data`.
        progress: is called with the features computed, and with the epochs done.

    Raises:
        TrainError: the data cannot be used.
        ModelError: `destination` exists.
    """
    if test is None:
        training, testing = split(read_samples(data))
    else:
        training, testing = read_samples(data), read_samples(test)
    features = FrozenFeatures(UnpooledEncoder(model), [*training, *testing], progress)
    training, testing = features.readable(training), features.readable(testing)
    if not training or not testing:
        raise TrainError(
            data, "too few readable pictures to train and to test with", "give more pictures"
        )
    with new_directory(destination) as directory:
        head = fit_head(training, features, golden_hash(model), epochs, seed, progress)
        write_head(fold_scale(head, features), directory)
    answers = answer_samples(head, testing, features)
    prior = Prior(training)
    return Scores(
        head=np.array(
            [sample.score(answer) for sample, answer in zip(testing, answers, strict=True)]
        ),
        prior=np.array([sample.score(prior(sample.question)) for sample in testing]),
        kinds=[" ".join(sample.question.lower().split()[:KIND_WORDS]) for sample in testing],
        unreadable=features.unreadable,
    )


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Divide samples into training and test, by the names of their pictures."""
    training: list[Sample] = []
    testing: list[Sample] = []
    for sample in samples:
        digest = blake2b(sample.picture.name.encode(), digest_size=4).digest()
        held_out = int.from_bytes(digest, "big") < HELD_OUT * 2**32
        (testing if held_out else training).append(sample)
    return training, testing


def fit_head(
    samples: Sequence[Sample],
    features: FrozenFeatures,
    model: str,
    epochs: int,
    seed: int,
    progress: ReportProgress,
) -> FusionHead:
    """Train a head on samples; `model` is the golden hash of the towers' model."""
    torch.manual_seed(seed)
    counts = Counter(sample.answer for sample in samples)
    answers = tuple(answer for answer, _ in counts.most_common(MAX_ANSWERS))
    widths = features.vision_width, features.text_width, features.cells_per_picture
    head = FusionHead(FusionConfig(model, answers, *widths))
    batches = _Batches(samples, answers, epochs, seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step / batches.steps)
    )
    for epoch in range(epochs):
        losses = []
        for batch in batches.of_epoch(epoch):
            loss = F.cross_entropy(_logits(head, batch, features), batches.targets(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        stage = f"Training the head, loss {np.mean(losses):.3f}"
        progress(Progress(epoch + 1, epochs, stage=stage))
    return head.eval()


class _Batches:
    """Batches of pictures with all questions about them whose answer the head has."""

    def __init__(
        self, samples: Sequence[Sample], answers: Sequence[str], epochs: int, seed: int
    ) -> None:
        self.seed = seed
        self.numbers = {answer: number for number, answer in enumerate(answers)}
        self.by_picture: dict[Path, list[Sample]] = defaultdict(list)
        for sample in samples:
            if sample.answer in self.numbers:
                self.by_picture[sample.picture].append(sample)
        self.pictures = sorted(self.by_picture)
        self.steps = epochs * math.ceil(len(self.pictures) / PICTURES)

    def of_epoch(self, epoch: int) -> list[list[Sample]]:
        """Return the batches of an epoch, in an order that depends on the seed and its number."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        return [
            [
                sample
                for row in order[start : start + PICTURES]
                for sample in self.by_picture[self.pictures[row]]
            ]
            for start in range(0, len(order), PICTURES)
        ]

    def targets(self, samples: Sequence[Sample]) -> Tensor:
        """Return the distribution of people's answers over those of the head [n, answers]."""
        targets = torch.zeros(len(samples), len(self.numbers))
        for row, sample in enumerate(samples):
            for answer, count in sample.answers:
                if answer in self.numbers:
                    targets[row, self.numbers[answer]] = count
        return targets / targets.sum(dim=1, keepdim=True)


@torch.inference_mode()
def answer_samples(
    head: FusionHead, samples: Sequence[Sample], features: FrozenFeatures
) -> list[str]:
    """Return the head's answer to each sample."""
    answers: list[str] = []
    for start in range(0, len(samples), ANSWERED):
        logits = _logits(head, samples[start : start + ANSWERED], features)
        answers += [head.config.answers[number] for number in logits.argmax(dim=1).tolist()]
    return answers


def fold_scale(head: FusionHead, features: FrozenFeatures) -> FusionHead:
    """Return the head for cells as the towers compute them, without the scale of `features`."""
    raw, (mean, deviation) = copy.deepcopy(head), features.scale
    with torch.no_grad():
        raw.cell_proj.weight.div_(deviation)
        raw.cell_proj.bias.sub_(raw.cell_proj.weight @ mean)
    return raw


def _logits(head: FusionHead, samples: Sequence[Sample], features: FrozenFeatures) -> Tensor:
    """Return logits [n, answers]."""
    pictures = list(dict.fromkeys(sample.picture for sample in samples))
    rows = {picture: row for row, picture in enumerate(pictures)}
    tokens, mask = features.tokens([sample.question for sample in samples])
    picture_rows = torch.tensor([rows[sample.picture] for sample in samples])
    return head(features.cells(pictures), tokens, mask, picture_rows)


def _rate(progress: float) -> float:
    """Return the factor on the learning rate: a short linear warm-up, then a cosine to 0."""
    return min(1.0, progress / WARMUP + 1e-3) * (1 + math.cos(math.pi * progress)) / 2
