"""Look for a wrong setting of a model: each plausible one is tried on pictures of given words.

A wrong activation, normalisation, resize, padding or end of text is no error, only a worse model.
The score of a setting is the mean log-probability of the right word of a picture among all words.
The same pictures are compared under two settings, so that their difficulty cancels out: a setting
is suspected if another one is better by at least `LEAST_GAIN` on average and by `CERTAINTY`
standard errors, which chance alone reaches about once in 30,000 comparisons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.arrays import Float32Array, Float64Array, normalize
from twotower.encode.engine import start_engine
from twotower.errors import LabelError
from twotower.inputs.pictures import PICTURE_SUFFIXES
from twotower.inputs.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from twotower.inputs.tokenizer import TokenizerConfig, load_tokenizer
from twotower.model.config import CLIPConfig, TextTransformerConfig, ViTConfig, read_config
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.model.clip import CLIP

CERTAINTY = 4.0  # standard errors
LEAST_GAIN = 0.05  # nats for each picture
LEAST_PICTURES = 20
SCALE = 100.0  # of cosines, that of CLIP; fixed, so that the scores of models can be compared
BATCH = 16
NORMALIZATIONS = {
    "CLIP": (OPENAI_MEAN, OPENAI_STD),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0 and 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
CONTEXT_LENGTHS = (16, 32, 64, 77)


@dataclass(frozen=True)
class Outcome:
    """A setting in place of the declared one.

    Attributes:
        setting: such as "mean and deviation of ImageNet".
        declared: the declared value.
        accuracy: the share of pictures whose right word is first.
        gain: the mean increase of the log-probability of the right word.
        certainty: the gain in standard errors.
    """

    setting: str
    declared: str
    accuracy: float
    gain: float
    certainty: float

    @property
    def is_better(self) -> bool:
        """True if the declared setting is suspected."""
        return self.gain >= LEAST_GAIN and self.certainty >= CERTAINTY


@dataclass(frozen=True)
class Suspicion:
    """The result of all trials: the accuracy as declared, and the outcome of each other setting."""

    pictures: int
    words: int
    accuracy: float
    outcomes: tuple[Outcome, ...]

    @property
    def best(self) -> Outcome | None:
        """The setting that is surely better than the declared one; None if there is none."""
        better = [outcome for outcome in self.outcomes if outcome.is_better]
        return max(better, key=lambda outcome: outcome.gain, default=None)


def suspect(directory: Path, folder: Path, report: ReportProgress = ignore_progress) -> Suspicion:
    """Try other settings of a model directory.

    Activation, end of text and context length are only tried where torch is installed. The golden
    vectors are not compared: they were made with the declared settings.

    Args:
        folder: pictures in sub-folders named after their content, or named so themselves, such as
            "light-bulb_2.jpg".

    Raises:
        LabelError: fewer than `LEAST_PICTURES` pictures, or fewer than two words.
        PictureError: a picture cannot be read.
    """
    pictures, names = _read_folder(folder)
    words = sorted(set(names))
    towers = _Towers(directory, pictures, [f"a photo of a {word}." for word in words])
    right = np.array([words.index(name) for name in names])
    declared = towers.config
    image_embeds, text_embeds = towers.image(declared), towers.text(declared)
    before, accuracy = _score(image_embeds, text_embeds, right)
    trials = list(_trials(declared))
    outcomes = []
    for done, (setting, value, config, embed) in enumerate(trials):
        report(Progress(done, len(trials), stage=f"Trying {setting}"))
        after, right_first = _score(*embed(towers, config, image_embeds, text_embeds), right)
        outcomes.append(Outcome(setting, value, right_first, *_compare(before, after)))
    return Suspicion(len(pictures), len(words), accuracy, tuple(outcomes))


def _read_folder(folder: Path) -> tuple[list[Path], list[str]]:
    """Return pictures and their words."""
    nested = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in PICTURE_SUFFIXES)
    flat = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    pictures = nested or flat
    words = [_word(path.parent.name if nested else path.stem) for path in pictures]
    if len(pictures) < LEAST_PICTURES or len(set(words)) < 2:
        raise LabelError(
            folder,
            f"has {len(pictures)} pictures of {len(set(words))} words",
            f"give {LEAST_PICTURES} pictures or more, in folders named after their content",
        )
    return pictures, words


def _word(name: str) -> str:
    """Return "light bulb" for "light-bulb_2"."""
    return re.sub(r"[-_ ]+", " ", re.sub(r"[-_ ]*\d+$", "", name)).strip().lower()


def _score(
    image_embeds: Float32Array, text_embeds: Float32Array, right: Any
) -> tuple[Float64Array, float]:
    """Return the log-probability of each right word, and the share of those that are first."""
    logits = SCALE * (image_embeds @ text_embeds.T).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits[np.arange(len(right)), right], float((logits.argmax(axis=1) == right).mean())


def _compare(before: Float64Array, after: Float64Array) -> tuple[float, float]:
    """Return the mean gain, and its number of standard errors."""
    gains = after - before
    error = float(gains.std(ddof=1)) / len(gains) ** 0.5
    gain = float(gains.mean())
    return gain, gain / error if error else 0.0


class _Towers:
    """The towers of a model directory, run with any configuration, without golden vectors."""

    def __init__(self, directory: Path, pictures: Sequence[Path], texts: Sequence[str]) -> None:
        self.directory, self.config = directory, read_config(directory)
        self.pictures, self.texts = pictures, texts
        self._vision = start_engine("onnxruntime", directory, "vision")
        self._text = start_engine("onnxruntime", directory, "text")

    def pixels(self, config: CLIPConfig) -> Iterator[Float32Array]:
        """Yield pixel_values [n, 3, S, S]."""
        preprocess = Preprocess(config.preprocess)
        for start in range(0, len(self.pictures), BATCH):
            yield np.stack([preprocess(path) for path in self.pictures[start : start + BATCH]])

    def ids(self, tokenizer: TokenizerConfig) -> Any:
        """Return input_ids [n, L]."""
        folder = self.config.text_directory(self.directory)
        return load_tokenizer(tokenizer, folder)(self.texts).input_ids

    def image(self, config: CLIPConfig) -> Float32Array:
        return normalize(np.concatenate([self._vision(batch) for batch in self.pixels(config)]))

    def text(self, config: CLIPConfig) -> Float32Array:
        return normalize(self._text(self.ids(config.tokenizer)))

    def torch(self, config: CLIPConfig) -> CLIP:
        """Build an architecture for which there is no graph."""
        from twotower.model.weights import build_model, dequantize, read_stored

        tensors = dequantize(read_stored(self.config, self.directory))
        return build_model(replace(config, text_folder=None), tensors, self.directory)

    def torch_image(self, config: CLIPConfig) -> Float32Array:
        """Embed the pictures by torch."""
        import torch

        model = self.torch(config)
        with torch.inference_mode():
            images = [model.vision(torch.from_numpy(batch)) for batch in self.pixels(config)]
        return normalize(torch.cat(images).numpy())

    def torch_text(self, config: CLIPConfig) -> Float32Array:
        """Embed the texts by torch."""
        import torch

        model = self.torch(config)
        with torch.inference_mode():
            return normalize(model.text(torch.from_numpy(self.ids(config.tokenizer))).numpy())


Embeds = tuple[Float32Array, Float32Array]
Embed = Callable[[_Towers, CLIPConfig, Float32Array, Float32Array], Embeds]
Trial = tuple[str, str, CLIPConfig, Embed]  # setting, declared value, configuration, embed


def _embed_pictures(
    towers: _Towers, config: CLIPConfig, _: Float32Array, text_embeds: Float32Array
) -> Embeds:
    return towers.image(config), text_embeds


def _embed_texts(
    towers: _Towers, config: CLIPConfig, image_embeds: Float32Array, _: Float32Array
) -> Embeds:
    return image_embeds, towers.text(config)


def _embed_both(towers: _Towers, config: CLIPConfig, *_: Float32Array) -> Embeds:
    return towers.torch_image(config), towers.torch_text(config)


def _embed_texts_by_torch(
    towers: _Towers, config: CLIPConfig, image_embeds: Float32Array, _: Float32Array
) -> Embeds:
    return image_embeds, towers.torch_text(config)


def _trials(config: CLIPConfig) -> Iterator[Trial]:
    """Yield every setting that could be meant instead of a declared one."""
    yield from _picture_trials(config)
    if isinstance(config.text, TextTransformerConfig) and not config.text.causal:
        yield from _text_trials(config)
    if _has_torch():
        yield from _architecture_trials(config)


def _picture_trials(config: CLIPConfig) -> Iterator[Trial]:
    preprocess = config.preprocess
    squash = replace(preprocess, resize="shortest" if preprocess.resize == "squash" else "squash")
    yield (
        f"resize {squash.resize}",
        preprocess.resize,
        replace(config, preprocess=squash),
        _embed_pictures,
    )
    name = f"{preprocess.mean}, {preprocess.std}"
    for title, (mean, std) in NORMALIZATIONS.items():
        if (mean, std) == (tuple(preprocess.mean), tuple(preprocess.std)):
            name = title
    for title, (mean, std) in NORMALIZATIONS.items():
        if title != name:
            changed = replace(preprocess, mean=mean, std=std)
            setting = f"mean and deviation {title}"
            yield setting, name, replace(config, preprocess=changed), _embed_pictures


def _text_trials(config: CLIPConfig) -> Iterator[Trial]:
    """Yield what changes a bidirectional text tower; a causal one does not see its padding."""
    tokenizer = config.tokenizer
    for pad_id in {0, 1, tokenizer.eos_id or 0} - {tokenizer.pad_id}:
        changed = replace(tokenizer, pad_id=pad_id)
        declared = str(tokenizer.pad_id)
        yield f"padding {pad_id}", declared, replace(config, tokenizer=changed), _embed_texts


def _architecture_trials(config: CLIPConfig) -> Iterator[Trial]:
    vision, text = config.vision, config.text
    if isinstance(vision, ViTConfig) and vision.pool == "class":
        quick = vision.activation == "quick_gelu"
        activation: Any = "gelu" if quick else "quick_gelu"
        changed: dict[str, Any] = {"vision": replace(vision, activation=activation)}
        if isinstance(text, TextTransformerConfig):
            changed["text"] = replace(text, activation=activation)
        setting = f"activation {activation}"
        yield setting, vision.activation, replace(config, **changed), _embed_both
    if isinstance(text, TextTransformerConfig) and text.eos_id is not None:
        for eos_id in {2, 49407, text.vocab_size - 1} - {text.eos_id}:
            if eos_id < text.vocab_size:
                changed = {"text": replace(text, eos_id=eos_id)}
                setting = f"end of text {eos_id}"
                yield setting, str(text.eos_id), replace(config, **changed), _embed_texts_by_torch
    if isinstance(text, TextTransformerConfig) and not text.causal:
        for length in CONTEXT_LENGTHS:  # it is pooled at the last position
            if length <= text.context_length and length != config.tokenizer.context_length:
                tokenizer = replace(config.tokenizer, context_length=length)
                setting, declared = f"context length {length}", config.tokenizer.context_length
                shorter = replace(config, tokenizer=tokenizer)
                yield setting, str(declared), shorter, _embed_texts_by_torch


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None
