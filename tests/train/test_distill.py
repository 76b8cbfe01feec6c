"""Distillation: the losses, the cached embeds of the teacher, and whole runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny_models import tiny_config
from tests.train.ranks import in_ranks, rows_of_rank
from tests.train.test_batches import TOKENIZER, Numbers
from tests.train.test_loop import assert_same_weights, colours, config_of, losses
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.errors import TrainError
from twotower.pairs.sources import open_source
from twotower.progress import Progress
from twotower.train.batches import Batches
from twotower.train.config import LossConfig
from twotower.train.distill import Teacher, affinity_loss, feature_loss
from twotower.train.loop import train
from twotower.train.recipes import distill
from twotower.train.run_log import LogRow


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- the losses ----------------------------------------------------------------------------------


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_feature_loss_by_hand() -> None:
    embeds = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, -1.0], [torch.nan, torch.nan]])
    assert feature_loss(embeds, teacher) == pytest.approx((0 + 4 + 0) / 3)


def test_affinity_loss_is_the_divergence_in_both_directions() -> None:
    images, texts, their_images, their_texts = unit(4, 6, 5)
    scale = torch.tensor(1.5, dtype=torch.float64)
    actual = affinity_loss(images, texts, scale, their_images, their_texts, 9.0)
    student, target = scale.exp() * images @ texts.T, 9.0 * their_images @ their_texts.T
    ways = []
    for ours, theirs in ((student, target), (student.T, target.T)):
        p, log_q = theirs.softmax(dim=1), ours.log_softmax(dim=1)
        ways.append((p * (p.log() - log_q)).sum() / 6)
    torch.testing.assert_close(actual, sum(ways) / 2)
    agreeing = affinity_loss(images, texts, torch.tensor(9.0).log(), images, texts, 9.0)
    assert abs(agreeing) < 1e-6


def test_pictures_that_the_teacher_cannot_read_are_left_out() -> None:
    images, texts, their_images, their_texts = unit(4, 6, 5)
    scale = torch.tensor(1.5, dtype=torch.float64)
    holes = their_images.clone()
    holes[4:] = torch.nan
    actual = affinity_loss(images, texts, scale, holes, their_texts, 9.0)
    kept = affinity_loss(images[:4], texts[:4], scale, their_images[:4], their_texts[:4], 9.0)
    torch.testing.assert_close(actual * 6, kept * 4)


def run_ranks(rank: int, world: int, folder: Path) -> None:
    every = unit(4, 8, 5)
    images, texts, their_images, their_texts = rows_of_rank(rank, world, *every)
    images, texts = images.clone().requires_grad_(), texts.clone().requires_grad_()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    if rank == 0:
        their_images = their_images.clone()
        their_images[1] = torch.nan
    share = affinity_loss(images, texts, scale, their_images, their_texts, 9.0)
    share = share + feature_loss(images, their_images) + feature_loss(texts, their_texts)
    share.backward()
    results = {"loss": share.detach(), "images": images.grad, "texts": texts.grad}
    torch.save(results | {"scale": scale.grad}, folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_ranks_add_up(tmp_path: Path, world: int) -> None:
    run_ranks(0, 1, tmp_path)
    alone = torch.load(tmp_path / "0.pt")
    in_ranks(world, run_ranks, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for name in ("loss", "scale"):
        torch.testing.assert_close(sum(result[name] for result in ranks), alone[name])
    for name in ("images", "texts"):
        torch.testing.assert_close(torch.cat([result[name] for result in ranks]), alone[name])


# --- the teacher ---------------------------------------------------------------------------------


def test_embeds_are_the_teachers(tiny_directory: Path) -> None:
    source = Numbers(9, broken=frozenset({4}))
    teacher = Teacher(tiny_directory, 32)
    teacher.prepare([source])
    batch = next(Batches([source], tiny_config(), TOKENIZER, batch_size=8)(0, 1))
    images, texts = teacher.embeds_of(batch)
    encoder = load(tiny_directory)
    pictures = [source[int(key.split("-")[1])].picture for key in batch.keys]
    np.testing.assert_allclose(images, encoder.encode_image(pictures), atol=1e-3)
    np.testing.assert_allclose(texts, encoder.encode_text(batch.captions), atol=1e-3)


def test_nothing_is_embedded_twice(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Numbers(9)
    for rank in range(2):  # two ranks share the work
        Teacher(tiny_directory, 32).prepare([source], rank, 2)

    def fail(*_: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(Encoder, "stream", fail)
    monkeypatch.setattr(Encoder, "encode_text", fail)
    teacher = Teacher(tiny_directory, 32)
    teacher.prepare([source, Numbers(5)])
    assert len(teacher.images) == 9 and len(teacher.texts) == 27


def test_a_picture_that_only_the_teacher_cannot_read(tiny_directory: Path, tmp_path: Path) -> None:
    pairs = colours(tmp_path)
    (pairs / "broken.png").write_bytes(b"no picture")
    (pairs / "broken.txt").write_text("a caption")
    teacher = Teacher(tiny_directory, 32)
    teacher.prepare([open_source(pairs)])
    assert len(teacher.images) == 13
    teacher.prepare([open_source(pairs)])


def test_embeds_of_another_width(tiny_directory: Path) -> None:
    with pytest.raises(TrainError, match="embeds have 32 numbers, the student's 64"):
        Teacher(tiny_directory, 64)
    with pytest.raises(TrainError, match="choose another student"):
        distill(["x"], "SigLIP-B-16-224", tiny_directory, steps=1)
    config = distill(["x"], "ViT-B-32", tiny_directory, steps=1, settings=["loss.feature_weight=3"])
    assert (config.model.embed_dim, config.loss.feature_weight) == (32, 3.0)


# --- whole runs ----------------------------------------------------------------------------------


def test_a_student_approaches_its_teacher_and_resumes_to_the_bit(
    tiny_directory: Path, tmp_path: Path
) -> None:
    """The contrastive loss has no weight: only the teacher's embeds are learned."""
    pairs = colours(tmp_path)
    model = tiny_config()
    config = config_of(
        pairs,
        steps=40,
        model=replace(model, vision=replace(model.vision, width=32), name="student"),
        loss=LossConfig(
            teacher=str(tiny_directory),
            contrastive_weight=0.0,
            feature_weight=1.0,
            affinity_weight=0.5,
        ),
        **{"data.batch_size": 12, "output.save_every": 20, "memory.chunk_size": 5},
    )
    rows: list[LogRow] = []
    progress: list[Progress] = []
    directory = train(config, tmp_path / "run", report=rows.append, progress=progress.append)
    assert [(state.done, state.total) for state in progress] == [(12, 12)]
    assert rows[-1]["loss"] < rows[0]["loss"] / 3
    pictures = sorted(pairs.glob("*.png"))
    theirs, ours = (
        load(model_directory).encode_image(pictures)
        for model_directory in (tiny_directory, directory)
    )
    assert (theirs * ours).sum(axis=1).mean() > 0.8
    whole = losses(tmp_path / "run")
    directory.rename(tmp_path / "first")
    train(config, tmp_path / "run", resume=tmp_path / "run" / "checkpoints" / "000000020")
    assert losses(tmp_path / "run") == whole
    assert_same_weights(tmp_path / "run" / "model", tmp_path / "first")
