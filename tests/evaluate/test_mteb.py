"""Run tasks of mteb on the example photographs, offline, beside the package's own evaluation."""

import csv
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import twotower
from twotower.errors import EvaluationError
from twotower.evaluate.models import open_model
from twotower.evaluate.mteb import MtebEncoder
from twotower.evaluate.retrieval import recall_at_k
from twotower.evaluate.sets import open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = EXAMPLES / "photos"
LABELS = EXAMPLES / "labels.txt"
# The fields that mteb demands of every task.
DESCRIPTION: dict[str, Any] = {
    "description": "The example photographs of the repository.",
    "dataset": {"path": "examples/photos", "revision": "1"},
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "modalities": ["text", "image"],
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """Refuse and report connections."""
    addresses: list[Any] = []

    def refuse(connection: socket.socket, address: Any) -> None:
        addresses.append(address)
        raise ConnectionRefusedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr(socket.socket, "connect", refuse)
        yield
    assert addresses == []


@pytest.fixture(scope="module")
def encoder() -> MtebEncoder:
    return MtebEncoder("small")


@pytest.fixture
def labelled() -> list[tuple[str, str]]:
    """The file and the first label of each photograph."""
    return [(row["file"], row["labels"].split("|")[0]) for row in rows(EXAMPLES / "expected.csv")]


def evaluate(encoder: Any, task: Any) -> dict[str, float]:
    """Return the scores that mteb computes without its cache of results."""
    import mteb

    result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
    [scores] = result.task_results[0].scores["test"]
    return scores


def pictures(files: list[str]) -> Any:
    """Return a column of pictures, which `datasets` decodes."""
    import datasets

    column = {"image": [str(PHOTOS / file) for file in files]}
    return datasets.Dataset.from_dict(column).cast_column("image", datasets.Image())


@pytest.mark.clients
def test_zero_shot_classification_has_our_accuracy(
    encoder: MtebEncoder, labelled: list[tuple[str, str]], tmp_path: Path
) -> None:
    from mteb.abstasks import AbsTaskZeroShotClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    names = LABELS.read_text(encoding="utf-8").splitlines()
    template = "a photo of a {}."

    class Task(AbsTaskZeroShotClassification):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="Photos",
            type="ZeroShotClassification",
            category="i2t",
            main_score="accuracy",
            **DESCRIPTION,
        )

        def load_data(self, **kwargs: Any) -> None:
            data = pictures([file for file, _ in labelled])
            labels = [names.index(label) for _, label in labelled]
            self.dataset = {"test": data.add_column("label", labels)}
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return [template.format(name) for name in names]

    table = tmp_path / "photos.csv"
    table.write_text("".join(f"{file},{label}\n" for file, label in [("file", "label"), *labelled]))
    labelled_set = open_set(table, names, root=PHOTOS)
    expected = evaluate_zero_shot(open_model("small"), labelled_set, templates=(template,))
    assert evaluate(encoder, Task())["accuracy"] == pytest.approx(expected["top1"])
    assert 0.5 < expected["top1"] < 1


@pytest.mark.clients
def test_retrieval_has_our_recall(encoder: MtebEncoder) -> None:
    import datasets
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    files = [row["file"] for row in rows(PHOTOS / "SOURCES.csv")]
    captions = [row["title"] for row in rows(PHOTOS / "SOURCES.csv")]

    class Task(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="PhotosT2I",
            type="Any2AnyRetrieval",
            category="t2i",
            main_score="recall_at_1",
            **DESCRIPTION,
        )

        def load_data(self, **kwargs: Any) -> None:
            queries = datasets.Dataset.from_dict({"id": files, "text": captions})
            data = RetrievalSplitData(
                queries=queries,
                corpus=pictures(files).add_column("id", files),
                relevant_docs={file: {file: 1} for file in files},
                top_ranked=None,
            )
            self.dataset = {"default": {"test": data}}
            self.data_loaded = True

    scores = evaluate(encoder, Task())
    image_embeds = encoder.encoder.encode_image([PHOTOS / file for file in files])
    text_embeds = encoder.encoder.encode_text(captions)
    for k in (1, 5):
        recall, _ = recall_at_k(image_embeds, text_embeds, np.arange(len(files)), k)
        assert scores[f"recall_at_{k}"] == pytest.approx(recall, abs=1e-4)
        assert 0.2 < recall < 1


@pytest.mark.clients
@pytest.mark.parametrize("modalities", [["text"], ["image"], ["text", "image"]])
def test_same_vectors_as_the_clip_of_mteb(
    tiny_directory: Path, tmp_path: Path, modalities: list[str]
) -> None:
    """The wrapper of transformers' CLIP, with the same weights."""
    from mteb.models.model_implementations.clip_models import CLIPModel

    with pytest.warns(UserWarning, match="differently"):
        twotower.convert(tiny_directory, tmp_path / "clip", "transformers")
    data = pictures(["cat.jpg", "dog.jpg", "car.jpg"]).add_column("text", ["a cat", "x", "a dog"])
    batches = torch.utils.data.DataLoader(
        data.select_columns(modalities), batch_size=2, collate_fn=columns
    )
    task: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    expected = CLIPModel(str(tmp_path / "clip"), None, "cpu").encode(batches, **task)
    features = MtebEncoder(tiny_directory).encode(batches, **task)
    np.testing.assert_allclose(features, expected, atol=1e-3)


def columns(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return a batch as mteb's own loaders do."""
    return {name: [row[name] for row in batch] for name in batch[0]}


def test_a_batch_without_texts_and_pictures_is_an_error(encoder: MtebEncoder) -> None:
    with pytest.raises(EvaluationError, match="a batch with 'audio': has neither texts nor"):
        encoder.encode([{"audio": [b""]}], show_progress_bar=False)


def test_a_missing_mteb_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(EvaluationError, match=r"'mteb' is missing; pip install 'mteb>=2'"):
        MtebEncoder("small")
