"""The models of a server: each embeds the texts and pictures of all requests in batches."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import numpy as np

from twotower.arrays import normalize
from twotower.encode.golden import fingerprint
from twotower.encode.registry import BUNDLED_MODELS
from twotower.errors import PictureError, TwotowerError
from twotower.serve.batcher import Batcher
from twotower.serve.errors import RequestError

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.encode.encoder import Encoder
    from twotower.serve.decoding import DecoderPool
    from twotower.serve.settings import ServerSettings

DEFAULT_NAMES = frozenset(("", "default", "default/not-specified"))  # infinity's among them
Item = TypeVar("Item")
Truncation: TypeAlias = Literal["END", "NONE"]


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture's `image_embeds` [embed_dim] of unit length, and its size upright in pixels."""

    image_embeds: Float32Array
    width: int
    height: int


class ServedModel:
    """A model whose towers are shared by all requests.

    Attributes:
        name: the name in requests and answers.
        encoder: the model; its towers run in the threads of the batchers.
    """

    def __init__(
        self, name: str, encoder: Encoder, decoders: DecoderPool, settings: ServerSettings
    ) -> None:
        self.name, self.encoder = name, encoder
        self._decoders, self._settings = decoders, settings
        self.texts = _batcher(f"{name}-texts", self._encode_texts, settings)
        self.pictures = _batcher(f"{name}-pictures", self._encode_pixels, settings)

    @property
    def embed_dim(self) -> int:
        """The length of an embedding."""
        return self.encoder.config.embed_dim

    async def embed_texts(
        self, texts: Sequence[str], truncation: Truncation = "END"
    ) -> Float32Array:
        """Embed texts.

        Args:
            truncation: "END" to cut texts that are longer than the context, "NONE" to reject them.

        Returns:
            text_embeds [n, embed_dim], unit length.

        Raises:
            RequestError: 400 for no, empty or too many texts, or one that is too long; 429.
        """
        self._check_texts(texts)
        if truncation == "NONE":
            self._require_short(texts)
        return np.stack(await self.texts.submit(list(texts)))

    async def embed_pictures(
        self, contents: Sequence[bytes | RequestError]
    ) -> list[EmbeddedPicture | RequestError]:
        """Embed the bytes of picture files; each outcome concerns its picture alone.

        Args:
            contents: the bytes of files; an error, such as of a failed download, is passed on.

        Raises:
            RequestError: 400 for no or too many pictures; 429 if too many are waiting.
        """
        self._check_count(len(contents))
        return list(await asyncio.gather(*map(self._embed_picture, contents)))

    async def embed_picture(self, content: bytes) -> EmbeddedPicture:
        """Embed the bytes of one picture file.

        Raises:
            RequestError: 422 if it cannot be decoded; 429 if too many pictures are waiting.
        """
        outcome = await self._embed_picture(content)
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    async def embed_pixels(self, pixel_values: Float32Array) -> Float32Array:
        """Embed outputs of the model's preprocessing [n, channels, S, S].

        Returns:
            image_embeds [n, embed_dim], unit length.

        Raises:
            RequestError: 400 for no or too many rows; 429 if too many are waiting.
        """
        self._check_count(len(pixel_values))
        return np.stack(await self.pictures.submit(list(pixel_values)))

    async def zero_shot(
        self, image_embeds: Float32Array, labels: Sequence[str], template: str | None = None
    ) -> Float32Array:
        """Return the probability of each label [n]: softmax over labels, or sigmoid of each.

        Args:
            image_embeds: [embed_dim], unit length.
            template: a sentence with `{}` for the label; by default those of the model.

        Raises:
            RequestError: 400 for labels or a template that cannot be used.
        """
        from twotower.encode.classify import check_labels, check_templates, to_probabilities

        try:
            names = check_labels(labels)
            templates = check_templates(template, self.encoder)
        except TwotowerError as error:
            raise RequestError(400, str(error)) from error
        self._check_count(len(names) * len(templates))
        prompts = [sentence.replace("{}", name) for name in names for sentence in templates]
        text_embeds = (await self.embed_texts(prompts)).reshape(len(names), len(templates), -1)
        classifier = normalize(text_embeds.mean(axis=1))
        return to_probabilities(classifier @ image_embeds, self.encoder)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return the number of tokens of texts, with begin and end, as the model reads them."""
        return int(self.encoder.tokenizer(list(texts)).attention_mask.sum())

    async def warm_up(self) -> None:
        """Load both towers, so that the first request does not wait for them."""
        size = self.encoder.preprocess(np.zeros((8, 8, 3), np.uint8))
        await asyncio.gather(self.texts.submit(["a photo"]), self.pictures.submit([size]))

    async def close(self) -> None:
        """Finish what is waiting, then stop."""
        await asyncio.gather(self.texts.close(), self.pictures.close())

    def fingerprint(self) -> str:
        """Return the identity of the model's weights and settings."""
        return fingerprint(self.encoder.directory)

    async def _embed_picture(self, content: bytes | RequestError) -> EmbeddedPicture | RequestError:
        if isinstance(content, RequestError):
            return content
        try:
            decoded = await self._decoders.preprocess(content, self.encoder.config.preprocess)
        except PictureError as error:
            return RequestError(422, f"the picture: {error.reason}; {error.remedy}")
        (embeds,) = await self.pictures.submit([decoded.pixel_values])
        return EmbeddedPicture(embeds, decoded.width, decoded.height)

    def _encode_texts(self, texts: list[str]) -> list[Float32Array]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts that are cut, which requests decide on
            return list(self.encoder.encode_text(texts))

    def _encode_pixels(self, pixel_values: list[Float32Array]) -> list[Float32Array]:
        return list(self.encoder.encode_pixels(np.stack(pixel_values)))

    def _check_texts(self, texts: Sequence[str]) -> None:
        self._check_count(len(texts))
        for index, text in enumerate(texts):
            if not text:
                raise RequestError(400, "a text is empty", field=f"input[{index}]")
            if len(text) > self._settings.max_text:
                raise RequestError(
                    400,
                    f"a text has {len(text)} characters; the limit is {self._settings.max_text}",
                    field=f"input[{index}]",
                )

    def _check_count(self, count: int) -> None:
        if not count:
            raise RequestError(400, "the request has no items", field="input")
        if count > self._settings.max_items:
            raise RequestError(
                400,
                f"{count} items in one request; the limit is {self._settings.max_items}",
                field="input",
            )

    def _require_short(self, texts: Sequence[str]) -> None:
        truncated = self.encoder.tokenizer(list(texts)).truncated
        if truncated.any():
            limit = self.encoder.config.tokenizer.context_length
            raise RequestError(
                400,
                f"a text is longer than the {limit} tokens that the model reads",
                field=f"input[{int(truncated.argmax())}]",
            )


def _batcher(
    name: str, encode: Callable[[list[Item]], list[Float32Array]], settings: ServerSettings
) -> Batcher[Item, Float32Array]:
    return Batcher(
        encode,
        name=name,
        max_batch=settings.max_batch,
        max_wait=settings.max_wait_ms / 1000,
        max_queue=settings.max_queue,
    )


def model_name(source: str) -> str:
    """Return the name of the model that `load` takes as `source`; "small" has a long form."""
    return {short: name for name, short in BUNDLED_MODELS.items()}.get(source, source)


class ServedModels:
    """The models of a server by name; the first is the default."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = {model.name: model for model in models}
        self.default = models[0]

    def find(self, name: str | None = None) -> ServedModel:
        """Return a model by its name in a request; the default for none.

        Raises:
            RequestError: 404, no such model.
        """
        if name is None or name in DEFAULT_NAMES:
            return self.default
        name = model_name(name)
        if name not in self.models:
            served = ", ".join(self.models)
            raise RequestError(
                404, f"no model {name!r} is served; choose from: {served}", field="model"
            )
        return self.models[name]
