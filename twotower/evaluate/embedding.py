"""Pictures through an encoder, with whoever watches told, and what could not be read kept."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from twotower.arrays import normalize
from twotower.errors import EvaluationError, PictureError
from twotower.evaluate.models import Model
from twotower.inputs.pictures import Picture

TEXTS = 1024  # prompts that are embedded at a time

Watch = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""`with watch("Pictures", total) as advance: ... advance()`, as the command line's progress."""

Result = dict[str, Any]
"""What is printed as JSON."""


@contextmanager
def unwatched(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Tells nobody."""
    yield lambda: None


@dataclass(frozen=True)
class Embedded:
    """image_embeds [n, embed_dim] of the pictures that could be read.

    Attributes:
        numbers: [n], which ones these are. errors: of the others, by number.
    """

    image_embeds: NDArray[np.float32]
    numbers: NDArray[np.int64]
    errors: dict[int, PictureError]

    def unreadable(self, keys: Sequence[str]) -> list[str]:
        """A line for each picture that could not be read."""
        return [f"{keys[i]}: {one.reason}; {one.remedy}" for i, one in self.errors.items()]


def embed_pictures(
    model: Model,
    pictures: Iterable[Picture],
    total: int,
    watch: Watch = unwatched,
    what: str = "Pictures",
) -> Embedded:
    """All pictures of a set, in order; besides the embeds, memory stays bounded.

    Raises:
        NothingReadError: not one could be read.
    """
    image_embeds: list[NDArray[np.float32]] = []
    numbers: list[int] = []
    errors: dict[int, PictureError] = {}
    with watch(what, total) as advance:
        for number, encoded in enumerate(model.stream(pictures)):
            advance()
            if encoded.error is not None:
                errors[number] = encoded.error
            else:
                assert encoded.image_embeds is not None  # one of the two is always there
                image_embeds.append(encoded.image_embeds)
                numbers.append(number)
    if not numbers:
        reason = str(next(iter(errors.values()))) if errors else "there is none"
        raise EvaluationError(f"no picture could be read, so there is no number ({reason})")
    return Embedded(np.stack(image_embeds), np.array(numbers), errors)


def embed_texts(
    model: Model, texts: Sequence[str], watch: Watch = unwatched
) -> NDArray[np.float32]:
    """text_embeds [n, embed_dim] of unit length."""
    rows = []
    with watch("Texts", len(texts)) as advance:
        for start in range(0, len(texts), TEXTS):
            rows.append(model.encode_text(texts[start : start + TEXTS]))
            for _ in rows[-1]:
                advance()
    return np.concatenate(rows)


def make_classifier(
    model: Model,
    classes: Sequence[Sequence[str]],
    templates: Sequence[str],
    watch: Watch = unwatched,
) -> NDArray[np.float32]:
    """Text embeds of classes [n, embed_dim]: the mean over names and templates, of unit length."""
    means = []
    with watch("Classes", len(classes)) as advance:
        for names in classes:
            prompts = [template.replace("{}", name) for name in names for template in templates]
            means.append(model.encode_text(prompts).mean(axis=0))
            advance()
    return normalize(np.stack(means))


def encode_ranks(ranks: NDArray[np.int64]) -> str:
    """A letter for each rank: 1, 5, X or - for among the first one, five, ten or later."""
    return "".join(np.array(list("15X-"))[np.searchsorted((1, 5, 10), ranks, side="right")])


def configuration(model: Model, **more: Any) -> Result:
    """What a number depends on: the model, `more`, and the versions of what computed it."""
    about = model.describe()
    versions = {
        "twotower": version("twotower"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
    if "engine" in about:
        versions[about["engine"]] = version(about["engine"])
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {"model": about, **more, "versions": versions, "made": made}
