"""Fine-tuning: gains in the domain, losses outside, and the report of both."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import random_tensors, siglip_config, tiny_config
from twotower.cli.main import main
from twotower.encode.convert import write_directory
from twotower.encode.load import load
from twotower.errors import TrainError
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig
from twotower.model.presets import preset
from twotower.model.weights import load_model
from twotower.train.finetune.candidates import Candidate, choose_candidate
from twotower.train.finetune.fit import fit, split
from twotower.train.finetune.held_out import difference_interval, hold_out, hold_out_emoji
from twotower.train.finetune.last_layers import (
    find_head,
    image_features,
    text_features,
    without_heads,
)
from twotower.train.finetune.pair_set import Sample
from twotower.train.finetune.report import Card, Change
from twotower.train.lora import add_lora, merge_lora

COLOURS = {"red": (220, 20, 30), "green": (20, 200, 40), "blue": (30, 40, 220), "grey": (90,) * 3}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def paint(path: Path, colour: Sequence[int], seed: int) -> None:
    """Write a plain colour with noise, so that no two files are equal."""
    noise = np.random.default_rng(seed).integers(-20, 20, (70, 80, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures in folders named after their colour."""
    folder = tmp_path_factory.mktemp("domain")
    for number in range(60):
        name, colour = list(COLOURS.items())[number % 4]
        paint(folder / name / f"{number}.png", colour, number)
    return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes of two directions in the same colours."""
    folder = tmp_path_factory.mktemp("outside")
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 60, (64, 64, 3), np.uint8)
        name = ("rows", "columns")[number % 2]
        (pixels if name == "rows" else pixels.swapaxes(0, 1))[::8] = 240
        (folder / name).mkdir(exist_ok=True)
        PIL.Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(
    tiny_directory: Path, folder: Path, outside: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Card]:
    """A run with the defaults, except for the learning rate that the tiny model needs."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    return run, fit(
        folder, run, model=tiny_directory, outside=outside, settings=["optimizer.lr=1e-3"]
    )


def test_it_gains_in_the_domain(folder: Path, tuned: tuple[Path, Card]) -> None:
    run, card = tuned
    assert (card.learned_from, card.chosen_by, card.domain.pictures) == (36, 12, 12)
    assert card.domain.before < 0.6 and card.domain.after > 0.9
    assert card.domain.measure == "top-1 of 4 names"
    assert card.domain.interval[0] > 0 and "Better on these pictures" in card.verdict()
    model = load(run / "model")
    classifier = model.encode_text([f"a photo of a {name}." for name in sorted(COLOURS)])
    scores = model.encode_image(sorted(folder.rglob("*.png"))) @ classifier.T
    right = [sorted(COLOURS).index(path.parent.name) for path in sorted(folder.rglob("*.png"))]
    assert (scores.argmax(axis=1) == right).mean() > 0.9
    written = json.loads((run / "card.json").read_text())
    assert written["domain"]["after"] == card.domain.after
    assert card.verdict() in (run / "card.md").read_text()


def test_low_rank_updates_of_an_int8_model(folder: Path, outside: Path, tmp_path: Path) -> None:
    config = tiny_config()
    write_directory(config, random_tensors(config), (), tmp_path / "small", int8=True)
    card = fit(
        folder,
        tmp_path / "run",
        model=tmp_path / "small",
        method="lora",
        outside=outside,
        may_lose=1.0,
        settings=["optimizer.lr=3e-3"],
    )
    assert card.domain.after > 0.9
    sizes = [
        (tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "run/model")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_captions_of_sentences(tiny_directory: Path, outside: Path, tmp_path: Path) -> None:
    """Every picture has its own captions; the measure is recall."""
    for number in range(40):
        colour = np.random.default_rng(number).integers(0, 255, 3)
        paint(tmp_path / "pairs" / f"{number}.png", colour, number)
        (tmp_path / "pairs" / f"{number}.txt").write_text(f"colour {number}\nnumber {number}\n")
    (tmp_path / "pairs" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "pairs" / "broken.txt").write_text("a caption")
    card = fit(
        tmp_path / "pairs", tmp_path / "run", model=tiny_directory, method="probe", outside=outside
    )
    assert card.domain.measure == "recall at 1 among 8 pictures, mean of both ways"
    assert len(card.broken) == 1 and "broken.png" in card.broken[0]


def test_a_run_that_was_stopped_continues(
    tiny_directory: Path, folder: Path, outside: Path, tmp_path: Path, tuned: tuple[Path, Card]
) -> None:
    options = {"model": tiny_directory, "outside": outside, "settings": ["optimizer.lr=1e-3"]}

    def stop(row: dict[str, object]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path / "run", report=stop, **options)
    steps: list[object] = []
    card = fit(folder, tmp_path / "run", report=lambda row: steps.append(row["step"]), **options)
    assert steps == [4]  # finished steps are not repeated
    assert (card.domain, card.outside) == (tuned[1].domain, tuned[1].outside)
    with pytest.raises(TrainError, match="holds a finished fine-tuning"):
        fit(folder, tmp_path / "run", **options)
    (tmp_path / "run" / "card.json").unlink()
    with pytest.raises(TrainError, match="was begun with other arguments"):
        fit(folder, tmp_path / "run", may_lose=0.5, **options)


def test_the_command(
    tiny_directory: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use the outside set of the package, and leave no time for the towers."""
    arguments = ["train", "folder", str(folder), "--run", str(tmp_path / "run")]
    assert main([*arguments, "--model", str(tiny_directory), "--minutes", "0"]) == 0
    output = capsys.readouterr()
    assert "The towers are not tuned" in output.err
    assert "| in the domain: domain, top-1 of 4 names | 12 |" in output.out
    assert "drawn things (emoji by Noto and Twemoji), top-5 of 274 names" in output.out
    assert f"--model {tmp_path / 'run' / 'model'}" in output.out
    assert main(arguments) == 1
    assert "holds a finished fine-tuning" in capsys.readouterr().err


def test_too_few_pairs(tiny_directory: Path, tmp_path: Path) -> None:
    for number in range(9):
        paint(tmp_path / "few" / "red" / f"{number}.png", COLOURS["red"], number)
    with pytest.raises(TrainError, match="9 readable pairs; fine-tuning takes 30"):
        fit(tmp_path / "few", tmp_path / "run", model=tiny_directory)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(TrainError, match="is not empty"):
        fit(tmp_path / "few", tmp_path / "full", model=tiny_directory)


# --- functions -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=2), min_size=30, max_size=80))
def test_equal_pictures_stay_together(keys: list[bytes]) -> None:
    samples = [Sample(number, key, ("x",)) for number, key in enumerate(keys)]
    divided = split(samples)
    assert sorted(sample.number for group in divided for sample in group) == list(range(len(keys)))
    sides = [{sample.key for sample in group} for group in divided]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_the_choice() -> None:
    def made(mix: float, domain: float, outside: float) -> Candidate:
        return Candidate("probe", mix, {}, domain, outside)

    start = Candidate("start", 0.0, {}, 0.3, 0.5)
    near, far, worse = made(0.5, 0.6, 0.495), made(1.0, 0.9, 0.4), made(0.2, 0.2, 0.6)
    assert choose_candidate([start, near, far, worse], may_lose=0.01) is near
    assert choose_candidate([start, near, far, worse], may_lose=0.1) is far
    assert choose_candidate([start, worse], may_lose=0.1) is start
    level = made(0.75, 0.6, 0.5)
    assert choose_candidate([start, near, level], may_lose=0.01) is level  # keeps more


def test_hits_by_hand() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [0, 0.2, 0.1]], np.float32)
    pairs = [Answered(("a", "b")), Answered(("c",)), Answered(("d",))]
    held_out = hold_out("x", pairs, "{}")
    # the best text of picture 1 is text 3, of picture 2; the best picture of text 2, of
    # picture 1, is picture 2
    assert held_out.hits(images, texts).tolist() == [1.0, 0.0, 0.0]
    subset = held_out.subset([0, 2])
    assert subset.texts == ["a", "b", "d"] and subset.owners.tolist() == [0, 0, 1]
    names = hold_out("x", [Answered(("dog",)), Answered(("cat",))], "a {}", ["cat", "dog"])
    assert names.texts == ["a cat", "a dog"]
    hits = names.hits(np.array([[0, 1], [0.1, 0.9]], np.float32), np.eye(2, dtype=np.float32))
    assert hits.tolist() == [1.0, 0.0]


def Answered(captions: tuple[str, ...]) -> object:  # noqa: N802
    from twotower.pairs.pair import Pair

    return Pair("", b"", captions)


def test_the_interval_of_a_difference() -> None:
    before, after = np.zeros(400), np.zeros(400)
    after[:100] = 1
    low, high = difference_interval(before, after)
    assert low == pytest.approx(0.25 - 1.96 * (0.25 * 0.75 / 400) ** 0.5, abs=0.01)
    assert high == pytest.approx(0.25 + 1.96 * (0.25 * 0.75 / 400) ** 0.5, abs=0.01)


def test_the_outside_set_of_the_package() -> None:
    held_out = hold_out_emoji("a photo of a {}.")
    assert len(held_out.pictures) == 2 * len(held_out.texts) == 548
    random = np.random.default_rng(0).normal(size=(548, 64)).astype(np.float32)
    chance = held_out.hits(
        random, np.random.default_rng(1).normal(size=(274, 64)).astype(np.float32)
    )
    assert chance.mean() == pytest.approx(5 / 274, abs=0.02)


@pytest.mark.parametrize("stage", ["start", "probe"])
def test_the_verdict(stage: str) -> None:
    def change(low: float, high: float) -> Change:
        return Change("x", "y", 10, 0.5, 0.5 + (low + high) / 2, (low, high))

    def card(domain: Change, outside: Change) -> Card:
        return Card(
            "p", "m", "probe", stage, 0.5, 1, 1, [], 0.0, 0.01, False, domain, outside
        )  # fmt: skip

    better, level, worse = change(0.1, 0.3), change(-0.1, 0.1), change(-0.3, -0.1)
    if stage == "start":
        assert "No candidate is better than the model before" in card(level, level).verdict()
        return
    assert card(better, level).verdict().startswith("Better on these pictures by 20.0 points")
    assert "Worse elsewhere by 20.0 points" in card(better, worse).verdict()
    assert "No gain is shown" in card(level, level).verdict()
    assert "drawings of everyday things" in "\n".join(card(better, level).lines())


def resnet_config() -> CLIPConfig:
    from dataclasses import replace

    from twotower.model.config import ResNetConfig

    base = tiny_config()
    return replace(base, vision=ResNetConfig(64, 32, (1, 1, 1, 1)))


@pytest.mark.parametrize("make", [tiny_config, siglip_config, resnet_config])
def test_features_and_heads_are_the_whole_tower(make: object) -> None:
    torch.manual_seed(0)
    model = CLIP(make()).eval()
    pictures = [path.read_bytes() for path in sorted(Path("examples/photos").glob("*.jpg"))[:5]]
    expected = image_features(model, pictures)
    with without_heads(model):
        features = image_features(model, pictures)
    head = find_head(model.vision)
    if head is None:
        assert make is siglip_config
        np.testing.assert_array_equal(features, expected)
    else:
        through = getattr(*head)(torch.from_numpy(features)).detach().numpy()
        np.testing.assert_allclose(through, expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(image_features(model, [b"broken", *pictures])[0]).all()


def test_text_features_keep_their_order(tiny_directory: Path) -> None:
    model, encoder = load_model(tiny_directory), load(tiny_directory)
    texts = ["a dog", "a much longer sentence about a dog and a cat", "cat", "two words"]
    features = text_features(model, texts, encoder.tokenizer)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(features, encoder.encode_text(texts), atol=1e-5)


@pytest.mark.parametrize("make", [tiny_config, siglip_config, lambda: preset("twotower-small")])
def test_lora_starts_as_the_model_and_merges_into_it(make: object) -> None:
    config = make()
    torch.manual_seed(0)
    model = CLIP(config).eval()
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    side = config.vision.image_size
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        before = model.encode_image(pixels)
        add_lora(model.vision, 4)
        torch.testing.assert_close(model.encode_image(pixels), before)
        learning = [tensor for tensor in model.vision.parameters() if tensor.requires_grad]
        assert (
            0
            < sum(tensor.numel() for tensor in learning)
            < sum(tensor.numel() for tensor in model.vision.parameters())
        )
        for tensor in learning:
            tensor.add_(0.05 * torch.randn_like(tensor))
        changed = model.encode_image(pixels)
    assert not torch.allclose(changed, before, atol=1e-3)
    merged = merge_lora(model.state_dict())
    assert {n: t.shape for n, t in merged.items()} == {n: t.shape for n, t in plain.items()}
    restored = CLIP(config).eval()
    restored.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(restored.encode_image(pixels), changed, rtol=1e-4, atol=1e-5)
