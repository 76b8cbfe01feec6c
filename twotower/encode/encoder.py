"""Pictures and words to unit vectors. No torch: a model directory's ONNX graphs in an engine."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from safetensors import safe_open

from twotower.arrays import normalize
from twotower.encode.engine import Engine, start_engine
from twotower.encode.golden import GOLDEN_COSINE, read_golden
from twotower.encode.stream import EncodedPicture, encode_stream
from twotower.errors import EngineError, VerificationError
from twotower.inputs.pictures import Picture
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer, Tokens, load_tokenizer
from twotower.model.config import CLIPConfig, ViTConfig, read_config


class Encoder:
    """A model directory, ready to embed.

    The towers start on first use, so a text-only program never loads the image tower. When one
    starts it must reproduce the first golden vector of the directory; `verify` checks them all.

    Attributes:
        config: what the model is.
        directory: where it lies.
        engine: name of what runs it: "onnxruntime", "openvino" or "torch".
    """

    def __init__(
        self, directory: Path, engine: str = "onnxruntime", threads: int | None = None
    ) -> None:
        self.directory = directory
        self.config: CLIPConfig = read_config(directory)
        self.engine = engine
        self.threads = threads

    def encode_image(
        self, pictures: Picture | Iterable[Picture], batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Embed pictures: paths, encoded bytes, PIL images or uint8 arrays [H, W, 3].

        Returns:
            image_embeds [n, embed_dim], unit length, in the order given.

        Raises:
            PictureError: the first picture that cannot be read (`stream` answers the others).
        """
        rows = []
        for encoded in self.stream(_as_list(pictures), batch_size):
            if encoded.error:
                raise encoded.error
            assert encoded.image_embeds is not None  # one of the two is always there
            rows.append(encoded.image_embeds)
        return np.stack(rows) if rows else np.zeros((0, self.config.embed_dim), np.float32)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 256) -> NDArray[np.float32]:
        """Embed texts; warns about those that are longer than the model can read.

        Returns:
            text_embeds [n, embed_dim], unit length, in the order given.
        """
        return normalize(self._text_features(self._tokenize(texts), batch_size))

    def stream(self, pictures: Iterable[Picture], batch_size: int = 32) -> Iterator[EncodedPicture]:
        """Embed any number of pictures one after the other, in bounded memory and in order.

        A picture that cannot be read is answered by its error, in its place.
        """
        return encode_stream(pictures, self.preprocess, self.encode_pixels, batch_size)

    def encode_pixels(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed what `preprocess` gave: [n, 3, S, S] -> image_embeds [n, embed_dim]."""
        return normalize(self._vision(pixel_values))

    @property
    def sees_patches(self) -> bool:
        """Whether `encode_patches` works: in torch, for vision transformers with a class token."""
        vision = self.config.vision
        return self.engine == "torch" and isinstance(vision, ViTConfig) and vision.pool == "class"

    def encode_patches(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed each place of what `preprocess` gave, without training for it.

        Returns:
            [n, patches, embed_dim], unit length, to be compared with text_embeds; the patches row
            by row from the upper left.

        Raises:
            EngineError: the model does not see patches (`sees_patches`).
        """
        if not self.sees_patches:
            raise EngineError(
                f"{self.config.name} in {self.engine} gives no patches; that takes a vision "
                "transformer with a class token, and torch"
            )
        features = self._patches(pixel_values)
        return normalize(features.reshape(-1, features.shape[-1])).reshape(features.shape)

    def encode(
        self,
        sentences: str | PIL.Image.Image | Sequence[str | PIL.Image.Image],
        batch_size: int = 32,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
    ) -> NDArray[np.float32]:
        """Embed strings and PIL images in one list, as sentence-transformers' CLIP models do.

        Returns:
            [n, embed_dim], or [embed_dim] for a single input; features as they leave the towers
            unless `normalize_embeddings`.
        """
        single = isinstance(sentences, str | PIL.Image.Image)
        inputs = _as_list(sentences)
        features = np.empty((len(inputs), self.config.embed_dim), np.float32)
        texts = [i for i, one in enumerate(inputs) if isinstance(one, str)]
        pictures = [i for i, one in enumerate(inputs) if not isinstance(one, str)]
        with _progress(len(inputs), show_progress_bar) as advance:
            for rows in _chunks(texts, batch_size):
                tokens = self._tokenize([inputs[i] for i in rows])
                features[rows] = self._text_features(tokens, batch_size)
                advance(len(rows))
            for rows in _chunks(pictures, batch_size):
                pixel_values = np.stack([self.preprocess(inputs[i]) for i in rows])
                features[rows] = self._vision(pixel_values)
                advance(len(rows))
        if normalize_embeddings:
            features = normalize(features)
        return features[0] if single else features

    def verify(self) -> float:
        """Check every golden vector of the directory, on this machine and engine.

        Returns:
            The lowest cosine between a golden vector and what this encoder gives.

        Raises:
            VerificationError: one is below `GOLDEN_COSINE`, or the directory has none.
        """
        golden = read_golden(self.directory)
        image_embeds = self.encode_image(golden.pictures)
        text_embeds = normalize(self._text_features(self.tokenizer(golden.texts)))
        return min(
            self._check("picture", image_embeds, golden.image_embeds),
            self._check("text", text_embeds, golden.text_embeds),
        )

    @cached_property
    def preprocess(self) -> Preprocess:
        """Picture -> pixel_values [3, image_size, image_size]."""
        return Preprocess(self.config.preprocess)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Texts -> `Tokens` with input_ids [n, context_length]."""
        return load_tokenizer(self.config.tokenizer, self.directory)

    @cached_property
    def logit_scale(self) -> float:
        """What cosines are multiplied with to become logits (already exponentiated)."""
        return float(np.exp(self._scalar("logit_scale")))

    @cached_property
    def logit_bias(self) -> float | None:
        """What is added to the logits of a sigmoid model; None for softmax models."""
        return self._scalar("logit_bias") if self.config.logit_bias else None

    @cached_property
    def _vision(self) -> Engine:
        engine = start_engine(self.engine, self.directory, "vision", self.threads)
        golden = read_golden(self.directory)
        features = engine(np.stack([self.preprocess(golden.pictures[0])]))
        self._check("picture", normalize(features), golden.image_embeds[:1])
        return engine

    @cached_property
    def _text(self) -> Engine:
        engine = start_engine(self.engine, self.directory, "text", self.threads)
        golden = read_golden(self.directory)
        features = engine(self.tokenizer(golden.texts[:1]).input_ids)
        self._check("text", normalize(features), golden.text_embeds[:1])
        return engine

    @cached_property
    def _patches(self) -> Engine:
        return start_engine(self.engine, self.directory, "patches", self.threads)

    def _text_features(self, tokens: Tokens, batch_size: int = 256) -> NDArray[np.float32]:
        """[n, embed_dim]; texts of like length share a batch, cut to its longest text."""
        lengths = tokens.attention_mask.sum(axis=1)
        if self.config.text.kind == "transformer" and not self.config.text.causal:
            lengths[:] = self.config.tokenizer.context_length  # SigLIP pools at the last position
        order = np.argsort(lengths, kind="stable")
        features = np.empty((len(order), self.config.embed_dim), np.float32)
        for rows in _chunks(order, batch_size):
            features[rows] = self._text(
                np.ascontiguousarray(tokens.input_ids[rows, : lengths[rows].max()])
            )
        return features

    def _tokenize(self, texts: str | Sequence[str]) -> Tokens:
        """Tokens of one text or many; warns about those that had to be cut."""
        texts = [texts] if isinstance(texts, str) else texts
        tokens = self.tokenizer(texts)
        if tokens.truncated.any():
            first = texts[int(tokens.truncated.argmax())]
            warnings.warn(
                f"{int(tokens.truncated.sum())} of {len(texts)} texts are longer than the "
                f"{self.config.tokenizer.context_length} tokens that {self.config.name} reads and "
                f"were cut, the first: {first[:60]!r}...",
                stacklevel=3,
            )
        return tokens

    def _check(self, what: str, embeds: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
        cosine = (embeds * golden).sum(axis=1)
        worst = int(cosine.argmin())
        if not cosine[worst] >= GOLDEN_COSINE:  # also catches NaN
            raise VerificationError(
                f"{self.directory}: golden {what} {worst} comes out at cosine {cosine[worst]:.6f} "
                f"with {self.engine}, not {GOLDEN_COSINE} or more: its weights, configuration, "
                "vocabulary or graph were changed; convert or download the model again"
            )
        return float(cosine[worst])

    def _scalar(self, name: str) -> float:
        with safe_open(self.directory / "model.safetensors", framework="np") as file:
            return float(file.get_tensor(name))


def _as_list(inputs: Any) -> list[Any]:
    single = isinstance(inputs, str | bytes | Path | PIL.Image.Image | np.ndarray)
    return [inputs] if single else list(inputs)


def _chunks(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))


@contextlib.contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A function that advances a progress bar on stderr by so many items."""
    if not show:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Encoding", total=total)
        yield lambda done: progress.advance(task, done)
