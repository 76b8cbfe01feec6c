"""Errors for users: each names its subject, the reason, and the remedy.

The command line prints `str(error)` and exits with 1. An error of another class, except `OSError`,
is a fault of this package and keeps its traceback.
"""

from __future__ import annotations


class TwotowerError(ValueError):
    """Base class of the errors that a user can cause or fix.

    `str(error)` is one line: `<subject>: <reason>; <remedy>`.

    Attributes:
        subject: the file, field, option or object at fault.
        reason: what is wrong with it.
        remedy: what the user can do.
    """

    def __init__(self, subject: object, reason: str, remedy: str) -> None:
        self.subject, self.reason, self.remedy = str(subject), reason, remedy
        super().__init__(self.subject, reason, remedy)  # all three, so that it survives pickling

    def __str__(self) -> str:
        return " ".join(f"{self.subject}: {self.reason}; {self.remedy}".splitlines())


class PathError(TwotowerError):
    """A path begins with a home folder that does not exist or is unknown."""


class PictureError(TwotowerError):
    """A picture, raw file or video cannot be read."""


class MetadataError(TwotowerError):
    """The metadata of a picture, or a sidecar, cannot be read or written."""


class ModelError(TwotowerError):
    """A model's configuration, weights, tokenizer or files cannot be used."""


class UnsafePickleError(ModelError):
    """A pickle file contains code; nothing of it was executed."""


class VerificationError(ModelError):
    """A model does not reproduce its golden vectors."""


class EngineError(TwotowerError):
    """A runtime is unknown, not installed, or cannot run a graph."""


class EmbedError(TwotowerError):
    """A bulk embedding cannot start, or cannot continue."""


class LabelError(TwotowerError):
    """Labels, words or templates to compare pictures with cannot be used."""


class PairsError(TwotowerError):
    """A source of image-text pairs cannot be read."""


class BrokenPairError(PairsError):
    """A single pair cannot be read; the others can."""


class LibraryError(TwotowerError):
    """A library, its catalog or its vectors cannot be opened, read or changed."""


class QueryError(TwotowerError):
    """A query cannot be understood."""


class CalibrationError(TwotowerError):
    """A calibration cannot be read, or belongs to another model."""


class TaggingError(TwotowerError):
    """A vocabulary, a file of corrections or an export of tags cannot be used."""


class QuestionError(TwotowerError):
    """A question cannot be answered."""


class ServerError(TwotowerError):
    """The server cannot start with these settings."""


class EvaluationError(TwotowerError):
    """A labelled set, a result or an option of an evaluation cannot be used."""


class TrainError(TwotowerError):
    """A training run cannot start or continue."""
