"""The models of a server: each embeds the texts and pictures of all requests in batches."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from twotower.arrays import normalize
from twotower.encode.golden import fingerprint
from twotower.encode.registry import BUNDLED_MODELS
from twotower.errors import PictureError, TwotowerError
from twotower.serve.batcher import Batcher
from twotower.serve.errors import RequestError
from twotower.serve.questions import QuestionAboutPicture, QuestionAnswerer
from twotower.serve.tasks import gather_or_cancel

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.asking.answer import Answered
    from twotower.encode.encoder import Encoder
    from twotower.serve.decoding import DecodedPicture, DecoderPool
    from twotower.serve.settings import ServerSettings

DEFAULT_NAMES = frozenset(("", "default", "default/not-specified"))  # infinity's among them
Item = TypeVar("Item")
Truncation: TypeAlias = Literal["END", "START", "NONE"]
_TEXTS_OF_A_QUESTION = 32  # a question takes about as long
_CACHED_CLASSIFIERS, _CACHED_LABELS = 32, 256  # classifiers that are kept, labels of one


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
        self.questions: Batcher[QuestionAboutPicture, Answered] = Batcher(
            QuestionAnswerer(encoder).answer_all,
            name=f"{name}-questions",
            max_batch=1,
            max_wait=0.0,
            max_queue=max(1, settings.max_queue // _TEXTS_OF_A_QUESTION),
        )
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix=f"twotower-{name}-tokens")
        self._admitted_pictures = 0
        self._classifiers: OrderedDict[tuple[str, ...], Float32Array] = OrderedDict()

    @property
    def embed_dim(self) -> int:
        """The length of an embedding."""
        return self.encoder.config.embed_dim

    async def embed_texts(
        self,
        texts: Sequence[str],
        truncation: Truncation = "END",
        fields: Sequence[str] | None = None,
    ) -> Float32Array:
        """Embed texts.

        Args:
            truncation: of texts that are longer than the context: "END" and "START" cut there,
                "NONE" rejects.
            fields: the names of the texts in errors; "input[0]" and so on by default.

        Returns:
            text_embeds [n, embed_dim], unit length.

        Raises:
            RequestError: 400 for no, empty or too many texts, or one that is too long; 429.
        """
        self._check_texts(texts, fields or [f"input[{index}]" for index in range(len(texts))])
        if truncation == "NONE":
            await self._in_tokenizer(self._require_short, texts, fields)
        elif truncation == "START":
            texts = await self._in_tokenizer(self._without_beginnings, texts)
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
        with self._admit_pictures(len(contents)):
            return await gather_or_cancel(map(self._embed_picture, contents))

    async def embed_picture(self, content: bytes) -> EmbeddedPicture:
        """Embed the bytes of one picture file.

        Raises:
            RequestError: 422 if it cannot be decoded; 429 if too many pictures are waiting.
        """
        (outcome,) = await self.embed_pictures([content])
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

    async def answer(self, content: bytes, question: str, top: int | None = 5) -> Answered:
        """Answer a question about the bytes of a picture file, as `twotower.asking.ask` does.

        Args:
            top: how many replies to keep; None for all.

        Raises:
            RequestError: 400 for a text that is no question; 422 if the picture cannot be decoded;
                429 if too many pictures or questions are waiting.
        """
        self._check_texts([question], ["question"])
        with self._admit_pictures(1):
            pixel_values = (await self._decode(content)).pixel_values
            (image_embeds,) = await self.pictures.submit([pixel_values], admitted=True)
        (answered,) = await self.questions.submit(
            [QuestionAboutPicture(question, image_embeds, pixel_values, top)]
        )
        if answered.error is not None:
            raise RequestError(400, str(answered.error), field="question")
        return answered

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
        classifier = await self._classifier(names, templates)
        return to_probabilities(classifier @ image_embeds, self.encoder)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Return the number of tokens of texts, with begin and end, as the model reads them."""

        def count() -> int:
            return int(self.encoder.tokenizer(list(texts)).attention_mask.sum())

        return await self._in_tokenizer(count)

    async def warm_up(self) -> None:
        """Load both towers, so that the first request does not wait for them."""
        size = self.encoder.preprocess(np.zeros((8, 8, 3), np.uint8))
        await asyncio.gather(self.texts.submit(["a photo"]), self.pictures.submit([size]))

    async def close(self) -> None:
        """Finish what is waiting, then stop."""
        await asyncio.gather(self.texts.close(), self.pictures.close(), self.questions.close())
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    def fingerprint(self) -> str:
        """Return the identity of the model's weights and settings."""
        return fingerprint(self.encoder.directory)

    async def _embed_picture(self, content: bytes | RequestError) -> EmbeddedPicture | RequestError:
        if isinstance(content, RequestError):
            return content
        try:
            decoded = await self._decode(content)
        except RequestError as error:
            return error
        (embeds,) = await self.pictures.submit([decoded.pixel_values], admitted=True)
        return EmbeddedPicture(embeds, decoded.width, decoded.height)

    async def _decode(self, content: bytes) -> DecodedPicture:
        try:
            return await self._decoders.preprocess(content, self.encoder.config.preprocess)
        except PictureError as error:
            raise RequestError(
                422, f"the picture cannot be used: {error.reason}; {error.remedy}"
            ) from error

    @contextlib.contextmanager
    def _admit_pictures(self, count: int) -> Iterator[None]:
        """Count the pictures that are decoded or wait. Raises `OverloadedError` if too many do."""
        if self._admitted_pictures >= self._settings.max_queue:
            raise self.pictures.rejection()
        self._admitted_pictures += count
        try:
            yield
        finally:
            self._admitted_pictures -= count

    async def _classifier(self, names: Sequence[str], templates: Sequence[str]) -> Float32Array:
        """Return the embeds of labels [n, embed_dim]: means over the templates, unit length."""
        key = (*templates, "", *names)  # neither holds an empty text
        if key in self._classifiers:
            self._classifiers.move_to_end(key)
            return self._classifiers[key]
        prompts = [sentence.replace("{}", name) for name in names for sentence in templates]
        text_embeds = (await self.embed_texts(prompts)).reshape(len(names), len(templates), -1)
        classifier = normalize(text_embeds.mean(axis=1))
        if len(names) <= _CACHED_LABELS:
            self._classifiers[key] = classifier
        if len(self._classifiers) > _CACHED_CLASSIFIERS:
            self._classifiers.popitem(last=False)
        return classifier

    def _encode_texts(self, texts: list[str]) -> list[Float32Array]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts that are cut, which requests decide on
            return list(self.encoder.encode_text(texts))

    def _encode_pixels(self, pixel_values: list[Float32Array]) -> list[Float32Array]:
        return list(self.encoder.encode_pixels(np.stack(pixel_values)))

    def _check_texts(self, texts: Sequence[str], fields: Sequence[str]) -> None:
        self._check_count(len(texts))
        for text, field in zip(texts, fields, strict=True):
            if not text:
                raise RequestError(400, "a text is empty", field=field)
            if len(text) > self._settings.max_text:
                raise RequestError(
                    400,
                    f"a text has {len(text)} characters; the limit is {self._settings.max_text}",
                    field=field,
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

    async def _in_tokenizer(self, function: Callable[..., Item], *arguments: Any) -> Item:
        """Run a function in the thread for tokenizing, which long texts keep busy."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizing, function, *arguments)

    def _without_beginnings(self, texts: Sequence[str]) -> list[str]:
        """Leave out the first words of texts that are longer than the context."""
        truncated = self.encoder.tokenizer(list(texts)).truncated
        return [
            self._longest_end(text) if is_long else text
            for text, is_long in zip(texts, truncated, strict=True)
        ]

    def _longest_end(self, text: str) -> str:
        """Return as many words from the end as the model reads, at least one."""
        words = text.split()
        start, end = 0, len(words) - 1  # the first word to keep lies after start, at most at end
        while end - start > 1:
            middle = (start + end) // 2
            is_long = self.encoder.tokenizer([" ".join(words[middle:])]).truncated.any()
            start, end = (middle, end) if is_long else (start, middle)
        return " ".join(words[end:])

    def _require_short(self, texts: Sequence[str], fields: Sequence[str] | None) -> None:
        truncated = self.encoder.tokenizer(list(texts)).truncated
        if truncated.any():
            limit, index = self.encoder.config.tokenizer.context_length, int(truncated.argmax())
            raise RequestError(
                400,
                f"a text is longer than the {limit} tokens that the model reads",
                field=fields[index] if fields else f"input[{index}]",
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
        """Return a model by its name in a request, or its short one; the default for none.

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
