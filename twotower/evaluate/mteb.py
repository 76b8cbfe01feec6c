"""An encoder for the package mteb, which runs the tasks of MIEB (Xiao et al. 2025) and MTEB.

`mteb.evaluate(MtebEncoder("base"), mteb.get_tasks(tasks=["CIFAR10ZeroShot"]))`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.arrays import Float32Array
from twotower.encode.devices import split_engine
from twotower.encode.golden import fingerprint
from twotower.encode.load import load
from twotower.errors import EvaluationError

if TYPE_CHECKING:
    from mteb.models import ModelMeta

FRAMEWORKS = {"onnxruntime": "ONNX", "openvino": "OpenVINO", "torch": "PyTorch"}
"""The names of the engines in mteb's descriptions of models."""


class MtebEncoder:
    """A model with the methods of mteb's `EncoderProtocol`.

    Texts, pictures and both together are embedded as by mteb's own wrappers of CLIP, so that scores
    are comparable with its leaderboard: features are not of unit length, those of a text and a
    picture are added, and prompts of tasks are ignored.

    Attributes:
        encoder: the model.
        mteb_model_meta: its description; mteb stores results by its name and fingerprint.
    """

    def __init__(self, model: str | Path | None = None, engine: str = "onnxruntime") -> None:
        """Load a model.

        Args:
            model: any name that `twotower.load` takes.

        Raises:
            EvaluationError: mteb is not installed.
        """
        _require_mteb()
        self.encoder = load(model, engine=engine)
        self.mteb_model_meta = self._describe()

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, show_progress_bar: bool = True, **task: Any
    ) -> Float32Array:
        """Embed the batches of a task.

        Args:
            inputs: batches with lists under "text", "image" or both; other keys are ignored.
            show_progress_bar: of batches, on stderr.
            task: its metadata, split, subset and type of prompt, which decide nothing here.

        Returns:
            [n, embed_dim], not of unit length.

        Raises:
            EvaluationError: a batch has neither texts nor pictures.
            PictureError: a picture cannot be read.
        """
        from tqdm.auto import tqdm

        batches = tqdm(inputs, desc="Encoding", disable=not show_progress_bar)
        return np.concatenate([self._features(batch) for batch in batches])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosines of all pairs [n1, n2]."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosines of rows with the same number [n]."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    def _features(self, batch: Mapping[str, Any]) -> Float32Array:
        """Return [n, embed_dim]; the sum of both, where a batch has texts and pictures."""
        features = [
            self.encoder.encode([{modality: content} for content in batch[modality]])
            for modality in ("text", "image")
            if modality in batch
        ]
        if not features:
            keys = ", ".join(map(repr, batch))
            raise EvaluationError(
                f"a batch with {keys}", "has neither texts nor pictures", "choose another task"
            )
        return np.sum(features, axis=0)

    def _describe(self) -> ModelMeta:
        from mteb.models import ModelMeta

        config = self.encoder.config
        return ModelMeta(
            loader=None,
            name=config.name if "/" in config.name else f"twotower/{config.name}",
            revision=fingerprint(self.encoder.directory),
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=config.tokenizer.context_length,
            embed_dim=config.embed_dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=[FRAMEWORKS[split_engine(self.encoder.engine)[0].partition("-")[0]]],
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=None,
            modalities=["image", "text"],
        )


def _require_mteb() -> None:
    try:
        import mteb  # noqa: F401
    except ImportError:
        raise EvaluationError(
            "mteb", "the package 'mteb' is missing", "pip install 'mteb>=2'"
        ) from None
