"""Pictures and words to unit vectors, with the ONNX graphs of a model directory; no torch."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from safetensors import safe_open

from twotower.arrays import Float32Array, normalize
from twotower.encode.devices import AUTO, fallback_message, split_engine
from twotower.encode.engine import Engine, HalvingEngine, accelerator, start_engine
from twotower.encode.fastest import MEASURED_FROM, choose_engine, golden_cosine, known_engine
from twotower.encode.golden import GOLDEN_COSINE, read_golden
from twotower.encode.mixed_inputs import MixedInput, parse_inputs, read_pixel_values
from twotower.encode.sessions import GRAPH_FILES, Tower
from twotower.encode.stream import EncodedPicture, encode_stream
from twotower.errors import EngineError, VerificationError
from twotower.inputs.pictures import Picture
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer, Tokens, load_tokenizer
from twotower.model.config import CLIPConfig, read_config
from twotower.progress import Progress, ReportProgress, ignore_progress


class Encoder:
    """The model of a directory, for embedding pictures and texts.

    A tower is loaded on its first use, so a program that only embeds texts never loads the image
    tower. It must then reproduce the first golden vector of the directory; `verify` checks all.

    Attributes:
        config: the configuration of the model.
        directory: the model directory.
        engine: the engine in use: "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16" or
            "torch"; with a device, such as "onnxruntime:cuda". After a device has failed, it names
            the CPU.
    """

    def __init__(
        self, directory: Path, engine: str = "onnxruntime", threads: int | None = None
    ) -> None:
        self.directory = directory
        self.config: CLIPConfig = read_config(directory)
        self.threads = threads
        self._chooses_engine = split_engine(engine)[0] == AUTO
        self.engine = known_engine(engine, directory, threads) if self._chooses_engine else engine
        self._needs_padding = self.config.needs_padding

    def choose_engine(self, pictures: int, report: ReportProgress = ignore_progress) -> None:
        """Measure which engine embeds pictures fastest here, if `engine` was "auto".

        The choice is kept for this model and machine, so it is measured once.

        Args:
            pictures: that are about to be embedded; a few are not worth a measurement.
        """
        if self._chooses_engine and pictures >= MEASURED_FROM:
            self.engine = choose_engine(self.engine, self.directory, self.threads, report)
            self._chooses_engine = False
            vars(self).pop("_vision", None)

    def encode_image(
        self, pictures: Picture | Iterable[Picture], batch_size: int = 32
    ) -> Float32Array:
        """Embed pictures: paths, encoded bytes, PIL images or uint8 arrays [H, W, 3].

        Returns:
            image_embeds [n, embed_dim], unit length, in the order of the pictures.

        Raises:
            PictureError: a picture cannot be read (`stream` continues with the next one).
        """
        rows = []
        for encoded in self.stream(_as_list(pictures), batch_size):
            if encoded.error:
                raise encoded.error
            assert encoded.image_embeds is not None  # if there is no error
            rows.append(encoded.image_embeds)
        return np.stack(rows) if rows else np.zeros((0, self.config.embed_dim), np.float32)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 256) -> Float32Array:
        """Embed texts; warn about texts that are longer than the context of the model.

        Returns:
            text_embeds [n, embed_dim], unit length, in the order of the texts.
        """
        return self.encode_tokens(self._tokenize(texts), batch_size)

    def stream(self, pictures: Iterable[Picture], batch_size: int = 32) -> Iterator[EncodedPicture]:
        """Embed any number of pictures in bounded memory.

        Yields:
            An `EncodedPicture` for each picture, in order; with an error if it cannot be read.
        """
        return encode_stream(pictures, self.preprocess, self.encode_pixels, batch_size)

    def encode_pixels(self, pixel_values: Float32Array) -> Float32Array:
        """Embed outputs of `preprocess`: [n, 3, S, S] -> image_embeds [n, embed_dim]."""
        return normalize(self._vision(pixel_values))

    def encode_tokens(self, tokens: Tokens, batch_size: int = 256) -> Float32Array:
        """Embed outputs of `tokenizer`: n texts -> text_embeds [n, embed_dim]; warns of none."""
        return normalize(self._text_features(tokens, batch_size))

    @property
    def supports_patches(self) -> bool:
        """True for vision transformers with a class token: see `encode_patches`.

        Other engines than torch need `patch_features.onnx`, which earlier directories lack.
        """
        graph = self.directory / GRAPH_FILES["patch_features"]
        return self.config.embeds_patches and (
            split_engine(self.engine)[0] == "torch" or graph.is_file()
        )

    def encode_patches(self, pixel_values: Float32Array) -> Float32Array:
        """Embed each patch of outputs of `preprocess` [n, 3, S, S], without training for it.

        Returns:
            [n, patches, embed_dim], unit length, comparable with text_embeds; patches are row by
            row from the upper left.

        Raises:
            EngineError: the model does not support it.
        """
        if not self.supports_patches:
            raise EngineError(
                f"{self.config.name} in {self.engine}",
                "cannot embed patches",
                "use a vision transformer with a class token; convert an earlier one again",
            )
        features = self._patch_features(pixel_values)
        return normalize(features.reshape(-1, features.shape[-1])).reshape(features.shape)

    def encode(
        self,
        inputs: MixedInput | Sequence[MixedInput],
        batch_size: int = 32,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
    ) -> Float32Array:
        """Embed texts and pictures in one list, as sentence-transformers' CLIP models do.

        Args:
            inputs: texts, pictures, `{"text": text}` and `{"image": picture}`. A string that names
                the file of a picture is a picture, except as `{"text": string}`.

        Returns:
            [n, embed_dim], or [embed_dim] for a single input; features that are not of unit length
            unless `normalize_embeddings`.

        Raises:
            PictureError: an input cannot be read, or has another form; it names the position.
        """
        single = _is_single(inputs)
        parsed = parse_inputs(_as_list(inputs))
        features = np.empty((len(parsed), self.config.embed_dim), np.float32)
        texts = [row for row, item in enumerate(parsed) if item.modality == "text"]
        pictures = [row for row, item in enumerate(parsed) if item.modality == "image"]
        done = 0
        with _progress_bar(show_progress_bar) as report:
            for rows in (*_chunks(texts, batch_size), *_chunks(pictures, batch_size)):
                if parsed[rows[0]].modality == "text":
                    tokens = self._tokenize([parsed[row].content for row in rows])
                    features[rows] = self._text_features(tokens, batch_size)
                else:
                    pixels = [read_pixel_values(parsed[row], row, self.preprocess) for row in rows]
                    features[rows] = self._vision(np.stack(pixels))
                done += len(rows)
                report(Progress(done, len(parsed), stage="Encoding"))
        if normalize_embeddings:
            features = normalize(features)
        return features[0] if single else features

    def verify(self) -> float:
        """Check every golden vector of the directory, on this machine and engine.

        Returns:
            The lowest cosine between a golden vector and the embed of this encoder.

        Raises:
            VerificationError: a cosine is below `golden_cosine`, or there are no golden vectors.
        """
        golden = read_golden(self.directory)
        image_embeds = self.encode_image(golden.pictures)
        text_embeds = normalize(self._text_features(self.tokenizer(golden.texts)))
        return min(
            self._compare("picture", image_embeds, golden.image_embeds),
            self._compare("text", text_embeds, golden.text_embeds),
        )

    @cached_property
    def preprocess(self) -> Preprocess:
        """The function from a picture to pixel_values [3, image_size, image_size]."""
        return Preprocess(self.config.preprocess)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The function from texts to `Tokens` with input_ids [n, max_length]."""
        return load_tokenizer(self.config.tokenizer, self.config.text_directory(self.directory))

    @cached_property
    def logit_scale(self) -> float:
        """The factor from cosines to logits: the exponential of the model's `logit_scale`."""
        return float(np.exp(self._scalar("logit_scale")))

    @cached_property
    def logit_bias(self) -> float | None:
        """The constant that is added to the logits of a sigmoid model; None for softmax models."""
        return self._scalar("logit_bias") if self.config.logit_bias else None

    @cached_property
    def _vision(self) -> Engine:
        def check(engine: Engine) -> None:
            golden = read_golden(self.directory)
            features = engine(np.stack([self.preprocess(golden.pictures[0])]))
            self._compare("picture", normalize(features), golden.image_embeds[:1])

        return self._start("vision", check)

    @cached_property
    def _text(self) -> Engine:
        def check(engine: Engine) -> None:
            golden = read_golden(self.directory)
            features = engine(self.tokenizer(golden.texts[:1]).input_ids)
            self._compare("text", normalize(features), golden.text_embeds[:1])

        return self._start("text", check)

    def _start(self, tower: Tower, check: Callable[[Engine], None]) -> Engine:
        """Start and check a tower; on the CPU, with a warning, if its device fails."""
        if device := accelerator(self.engine):
            try:
                engine = start_engine(self.engine, self.directory, tower, self.threads)
                check(engine)
                return HalvingEngine(engine)
            except Exception as error:  # onnxruntime's exceptions have no public base class
                warnings.warn(fallback_message(device, error), stacklevel=2)
                self.engine = "onnxruntime:cpu"
        engine = start_engine(self.engine, self.directory, tower, self.threads)
        check(engine)
        return HalvingEngine(engine)

    @cached_property
    def _patch_features(self) -> Engine:
        return start_engine(self.engine, self.directory, "patch_features", self.threads)

    def _text_features(self, tokens: Tokens, batch_size: int = 256) -> Float32Array:
        """Return [n, embed_dim]; texts of similar length share a batch, cut to its longest text."""
        lengths = tokens.lengths.copy()
        if self._needs_padding:
            lengths[:] = tokens.input_ids.shape[1]
        order = np.argsort(lengths, kind="stable")
        features = np.empty((len(order), self.config.embed_dim), np.float32)
        for rows in _chunks(order, batch_size):
            features[rows] = self._text(
                np.ascontiguousarray(tokens.input_ids[rows, : lengths[rows].max()])
            )
        return features

    def _tokenize(self, texts: str | Sequence[str]) -> Tokens:
        """Tokenize one text or many; warn about texts that had to be cut."""
        texts = [texts] if isinstance(texts, str) else texts
        tokens = self.tokenizer(texts)
        if tokens.truncated.any():
            example = texts[int(tokens.truncated.argmax())]
            warnings.warn(
                f"{int(tokens.truncated.sum())} of {len(texts)} texts are longer than the "
                f"{self.config.tokenizer.context_length} tokens that {self.config.name} reads and "
                f"were cut, the first: {example[:60]!r}...",
                stacklevel=3,
            )
        return tokens

    def _compare(self, kind: str, embeds: Float32Array, golden: Float32Array) -> float:
        """Return the lowest cosine of rows [n, embed_dim]. Raises `VerificationError`."""
        cosine = (embeds * golden).sum(axis=1)
        worst, least = int(cosine.argmin()), golden_cosine(self.engine, kind)
        if not cosine[worst] >= least:  # also catches NaN
            difference = f"golden {kind} {worst} has cosine {cosine[worst]:.6f} with {self.engine}"
            if least < GOLDEN_COSINE:
                reason = f"{difference}, below {least}: it rounds too much for this model"
                raise VerificationError(self.directory, reason, "use --engine onnxruntime")
            raise VerificationError(
                self.directory,
                f"{difference}, below {least}: weights, configuration, vocabulary or graph were "
                "changed",
                "convert or download the model again",
            )
        return float(cosine[worst])

    def _scalar(self, name: str) -> float:
        with safe_open(self.directory / "model.safetensors", framework="np") as file:
            return float(file.get_tensor(name))


def _as_list(inputs: Any) -> list[Any]:
    return [inputs] if _is_single(inputs) else list(inputs)


def _is_single(inputs: Any) -> bool:
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind not in "UO"  # an array of strings or objects is a list of inputs
    return isinstance(inputs, str | bytes | os.PathLike | PIL.Image.Image | Mapping)


def _chunks(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))


@contextlib.contextmanager
def _progress_bar(visible: bool) -> Iterator[ReportProgress]:
    """Yield a function that updates a progress bar on stderr."""
    if not visible:
        yield ignore_progress
        return
    import rich.console
    import rich.progress

    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task("Encoding", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total)

        yield report
