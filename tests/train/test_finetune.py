"""Fine-tuning: gains in the domain, losses outside, and the report of both."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import random_tensors, siglip_config, tiny_config
from twotower.arrays import normalize
from twotower.cli.main import main
from twotower.encode.convert import write_directory
from twotower.encode.load import find_model, load
from twotower.errors import TrainError
from twotower.model.clip import CLIP
from twotower.model.presets import preset
from twotower.model.weights import load_model
from twotower.progress import Progress
from twotower.train.embed_cache import open_cache, sample_key
from twotower.train.finetune.candidates import (
    Candidate,
    choose_candidate,
    divide,
    read_candidates,
    write_candidates,
)
from twotower.train.finetune.fit import fit
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.held_out import difference_interval, hold_out, hold_out_emoji
from twotower.train.finetune.image_features import image_features
from twotower.train.finetune.report import CandidateRow, Card, Change, draw_trade_off
from twotower.train.finetune.stored_embeds import add_stored_embeds, write_stored_embeds
from twotower.train.finetune.text_fit import ShiftMetric, TextFit
from twotower.train.finetune.text_parts import (
    TextParts,
    TextUpdate,
    compute_text_parts,
    text_features,
)
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
    run = tmp_path_factory.mktemp("tuned") / "run"
    return run, fit(folder, run, model=tiny_directory, outside=outside)


def test_it_gains_in_the_domain(folder: Path, tuned: tuple[Path, Card]) -> None:
    run, card = tuned
    assert (card.trained_on, card.domain.pictures) == (48, 12)
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


def test_pictures_keep_their_vectors(
    tiny_directory: Path, folder: Path, tuned: tuple[Path, Card]
) -> None:
    before, after = load(tiny_directory), load(tuned[0] / "model")
    pictures = sorted(folder.rglob("*.png"))[:3]
    np.testing.assert_array_equal(before.encode_image(pictures), after.encode_image(pictures))
    texts = [f"a photo of a {name}." for name in COLOURS]
    assert (before.encode_text(texts) * after.encode_text(texts)).sum(axis=1).max() < 0.9999


def draw_shape(kind: str, random: np.random.Generator) -> PIL.Image.Image:
    """Draw a turned outline of one of seven kinds, of random size, place and colours."""
    sides = {"triangle": 3, "square": 4, "pentagon": 5, "circle": 60}
    points = {"star": 5, "cross": 4, "flower": 8}
    corners = sides.get(kind) or 2 * points[kind]
    radii = np.ones(corners)
    radii[1::2] = {"star": 0.4, "cross": 0.2, "flower": 0.7}.get(kind, 1.0)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + random.uniform(0, 2 * np.pi)
    centre, size = random.uniform(100, 156, 2), random.uniform(50, 90)
    outline = centre + size * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    picture = PIL.Image.new("RGB", (256, 256), tuple(random.integers(200, 256, 3).tolist()))
    colour = tuple(random.integers(0, 140, 3).tolist())
    PIL.ImageDraw.Draw(picture).polygon([tuple(point) for point in outline], fill=colour)
    return picture


SHAPES = ("circle", "cross", "flower", "pentagon", "square", "star", "triangle")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_gains_with_fewer_than_a_hundred_pictures(tmp_path: Path) -> None:
    """Ninety-one drawings of seven kinds: eight points or half of the missing, and no loss."""
    random = np.random.default_rng(0)
    for kind in SHAPES:
        (tmp_path / "drawings" / kind).mkdir(parents=True)
        for number in range(13):
            draw_shape(kind, random).save(tmp_path / "drawings" / kind / f"{number}.png")
    card = fit(tmp_path / "drawings", tmp_path / "run", model="small")
    tests = [(row, draw_shape(kind, random)) for row, kind in enumerate(SHAPES) for _ in range(20)]
    images = load("small").encode_image([picture for _, picture in tests])
    labels = np.array([row for row, _ in tests])
    texts = [f"a photo of a {kind}." for kind in SHAPES]
    before, after = (
        float(((images @ load(model).encode_text(texts).T).argmax(axis=1) == labels).mean())
        for model in ("small", tmp_path / "run" / "model")
    )
    assert after - before >= min(0.08, (1 - before) / 2)
    assert card.outside.after - card.outside.before >= -0.015
    sentences = ["a house by the sea", "two men on a bench", "an old map of the world"]
    kept = load("small").encode_text(sentences) * load(tmp_path / "run/model").encode_text(
        sentences
    )
    assert kept.sum(axis=1).min() > 0.99


def test_the_card_shows_all_candidates(tuned: tuple[Path, Card]) -> None:
    run, card = tuned
    [chosen] = [row for row in card.candidates if row.chosen]
    assert chosen.name == card.result and chosen.allowed
    assert card.candidates[0].name == "the model before" and card.candidates[0].gain == 0
    text = (run / "card.md").read_text()
    assert all(f"| {row.name} |" in text for row in card.candidates)
    assert "card.png" in text
    with PIL.Image.open(run / "card.png") as curve:
        assert curve.width > 300


def test_a_finished_run_chooses_again_without_training(
    tiny_directory: Path,
    folder: Path,
    outside: Path,
    tmp_path: Path,
    tuned: tuple[Path, Card],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"model": tiny_directory, "outside": outside}
    shutil.copytree(tuned[0], tmp_path / "run")

    def refuse(*arguments: object) -> None:
        raise AssertionError("it trains again")

    monkeypatch.setattr(TextFit, "path", refuse)
    with pytest.raises(TrainError, match="holds a finished fine-tuning"):
        fit(folder, tmp_path / "run", **options)
    card = fit(folder, tmp_path / "run", may_lose=-1.0, **options)
    assert card.stage == "start" and card.domain.after == card.domain.before
    card = fit(folder, tmp_path / "run", may_lose=0.01, **options)
    assert (card.result, card.domain) == (tuned[1].result, tuned[1].domain)


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
    card = fit(tmp_path / "pairs", tmp_path / "run", model=tiny_directory, outside=outside)
    assert card.domain.measure == "recall at 1 among 8 pictures, mean of both ways"
    assert len(card.broken) == 1 and "broken.png" in card.broken[0]


def test_a_run_that_was_stopped_continues(
    tiny_directory: Path, folder: Path, outside: Path, tmp_path: Path
) -> None:
    options = {
        "model": tiny_directory,
        "outside": outside,
        "method": "full",
        "settings": ["optimizer.lr=1e-3"],
    }

    def stop(row: dict[str, object]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path / "run", report=stop, **options)
    steps: list[object] = []
    card = fit(folder, tmp_path / "run", report=lambda row: steps.append(row["step"]), **options)
    assert steps == [4]  # finished steps are not repeated
    whole = fit(folder, tmp_path / "whole", **options)
    assert (card.domain, card.outside) == (whole.domain, whole.outside)
    assert {row.stage for row in card.candidates} == {"start", "texts", "towers"}
    with pytest.raises(TrainError, match="was begun with other arguments"):
        fit(folder, tmp_path / "run", **(options | {"method": "lora"}))


def test_stopped_while_it_embeds(
    tiny_directory: Path, folder: Path, outside: Path, tmp_path: Path, monkeypatch: object
) -> None:
    """Vectors that were computed before are kept."""
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))

    def stop(progress: Progress) -> None:
        if progress.done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(folder, tmp_path / "run", model=tiny_directory, outside=outside, progress=stop)
    frozen = FrozenModel(tiny_directory)
    assert len(frozen._image_cache) == 32


def test_the_command(
    tiny_directory: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use the outside set of the package, and leave no time for the towers."""
    arguments = ["train", "folder", str(folder), "--run", str(tmp_path / "run")]
    arguments += ["--model", str(tiny_directory), "--method", "full", "--minutes", "0"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert "The towers are not trained" in output.err
    assert "| in the domain: domain, top-1 of 4 names | 12 |" in output.out
    assert "drawn things (emoji by Noto and Twemoji), mean of top-1 to top-5 of" in output.out
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
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.sampled_from("abc")), min_size=1),
    st.integers(2, 6),
)
def test_folds_are_equal_and_have_each_class(pairs: list[tuple[bytes, str]], count: int) -> None:
    keys, labels = zip(*pairs, strict=True)
    divided = divide(keys, labels, count)
    by_key: dict[bytes, set[int]] = {}
    for key, fold in zip(keys, divided.tolist(), strict=True):
        by_key.setdefault(key, set()).add(fold)
    assert all(len(numbers) == 1 for numbers in by_key.values())  # equal pictures stay together
    if len(by_key) == len(keys):
        for label in set(labels):
            members = [fold for fold, name in zip(divided, labels, strict=True) if name == label]
            counts = np.bincount(members, minlength=count)
            assert counts.max() - counts.min() <= 1


def made(value: float, domain: float, outside: list[float]) -> Candidate:
    return Candidate("texts", value, np.full(50, domain), np.array(outside))


def test_the_choice() -> None:
    """The limit holds for the loss and its standard error."""
    start = Candidate("start", 0.0, np.full(50, 0.3), np.ones(100))
    near = made(1.0, 0.6, [1.0] * 100)
    far = made(0.1, 0.9, [0.0] * 8 + [1.0] * 92)  # loses 8 points, standard error 2.7
    worse = made(10.0, 0.2, [1.0] * 100)
    assert choose_candidate([start, near, far, worse], may_lose=0.01) is near
    assert choose_candidate([start, near, far, worse], may_lose=0.09) is near
    assert choose_candidate([start, near, far, worse], may_lose=0.11) is far
    assert choose_candidate([start, worse], may_lose=0.1) is start
    tie = made(2.0, 0.6, [0.0] + [1.0] * 99)
    assert choose_candidate([start, tie, near], may_lose=0.1) is near  # keeps more


def test_candidates_are_stored(tmp_path: Path) -> None:
    update = TextUpdate(np.ones((2, 5), np.float32), np.full((2, 3), 2, np.float32))
    candidates = [
        Candidate("start", 0.0, np.zeros(4), np.ones(3)),
        Candidate("texts", 0.1, np.ones(4), np.ones(3), update),
        Candidate("towers", 0.005, np.ones(4), np.zeros(3)),
    ]
    write_candidates(candidates, tmp_path / "candidates.npz")
    stored = read_candidates(tmp_path / "candidates.npz")
    assert [c.name() for c in stored] == [c.name() for c in candidates]
    assert stored[2].update is None and stored[0].update is None
    assert stored[1].update is not None
    np.testing.assert_array_equal(stored[1].update.matrix(), np.full((3, 5), 4))
    np.testing.assert_array_equal(stored[1].domain, np.ones(4))


def test_the_fit_spares_other_scores() -> None:
    """Shifts separate the training pictures, and are orthogonal to the pictures outside."""
    random = np.random.default_rng(0)
    texts = make_parts(random.normal(size=(2, 20)))
    general = make_parts(random.normal(size=(60, 20)))
    outside = np.hstack([normalize(random.normal(size=(40, 4))), np.zeros((40, 4))])
    images = normalize(random.normal(size=(30, 8)))
    labels = (images[:, 0] + images[:, 6] > 0).astype(int)
    metric = ShiftMetric(general, outside.astype(np.float32))
    path = list(TextFit(texts, 1, metric, 30.0).path(images, labels, both_ways=False))
    before = images @ texts.embeds().T
    after = images @ texts.embeds(path[-1][1]).T
    accuracy = [(scores.argmax(axis=1) == labels).mean() for scores in (before, after)]
    assert accuracy[1] > max(0.85, accuracy[0])
    shift = texts.features @ path[-3][1].matrix().T
    assert np.abs(shift[:, :4]).max() < 0.2 * np.abs(shift[:, 4:]).max()


def make_parts(features: np.ndarray) -> TextParts:
    features = features.astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(8, 20)).astype(np.float32)
    projected = features @ weight.T
    return TextParts(features, projected, np.zeros_like(projected))


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
    unit = np.eye(2, dtype=np.float32)
    assert replace(names, top_k=2).hits(unit, unit).tolist() == [0.5, 0.5]


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
    assert len(held_out.pictures) == len(held_out.texts) == 274
    random = np.random.default_rng(0).normal(size=(274, 64)).astype(np.float32)
    chance = held_out.hits(
        random, np.random.default_rng(1).normal(size=(274, 64)).astype(np.float32)
    )
    assert chance.mean() == pytest.approx(3 / 274, abs=0.03)


def test_vectors_of_the_outside_set_are_stored_for_the_default_model() -> None:
    pictures = hold_out_emoji("{}").pictures
    keys = [sample_key(picture) for picture in pictures]
    directory = find_model("base")
    cache = open_cache("base", "stored-embeds")
    add_stored_embeds(cache, directory)
    assert cache.holds(keys) and len(cache) == len(keys)
    expected = load("base").encode_image([pictures[5]])
    np.testing.assert_allclose(cache[[keys[5]]], expected, atol=1e-3)
    small_cache = open_cache("small", "stored-embeds")
    add_stored_embeds(small_cache, find_model("small"))
    assert len(small_cache) == 0  # another image tower


def test_stored_vectors_are_written(tiny_directory: Path, tmp_path: Path) -> None:
    keys = [sample_key(text) for text in ("a", "b")]
    vectors = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    write_stored_embeds(keys, vectors, tiny_directory, tmp_path / "embeds.npz")
    cache = open_cache("tiny", "stored-embeds")
    add_stored_embeds(cache, tiny_directory, tmp_path / "embeds.npz")
    np.testing.assert_allclose(cache[keys], vectors, rtol=1e-3)


@pytest.mark.parametrize("stage", ["start", "texts"])
def test_the_verdict(stage: str) -> None:
    def change(low: float, high: float) -> Change:
        return Change("x", "y", 10, 0.5, 0.5 + (low + high) / 2, (low, high))

    def card(domain: Change, outside: Change) -> Card:
        rows = [
            CandidateRow(stage, stage, 0.5, 0.1, (0.0, 0.2), 0.0, (0.0, 0.0), True, True),
        ]
        return Card(
            "p", "m", "texts", stage, stage, 1, [], 0.0, 0.01, False, rows, domain, outside
        )  # fmt: skip

    better, level, worse = change(0.1, 0.3), change(-0.1, 0.1), change(-0.3, -0.1)
    if stage == "start":
        assert "No candidate is better than the model before" in card(level, level).verdict()
        return
    assert card(better, level).verdict().startswith("Better on these pictures by 20.0 points")
    assert "Worse elsewhere by 20.0 points" in card(better, worse).verdict()
    assert "more pairs may show a gain" in card(level, level).verdict()
    assert draw_trade_off(card(better, level)).startswith(b"\x89PNG")
    assert "drawings of everyday things" in "\n".join(card(better, level).lines())


def test_text_parts_are_the_whole_tower(tiny_directory: Path) -> None:
    model = load_model(tiny_directory)
    tokenizer = load(tiny_directory).tokenizer
    texts = ["a dog", "a much longer sentence about a dog and a cat", "cat", "two words"]
    text_parts = compute_text_parts(model, texts, tokenizer)
    expected = normalize(text_features(model, texts, tokenizer))
    np.testing.assert_allclose(text_parts.embeds(), expected, atol=1e-5)
    width = text_parts.features.shape[1]
    update = TextUpdate(
        np.random.default_rng(0).normal(size=(2, width)).astype(np.float32) / width,
        np.ones((2, model.config.embed_dim), np.float32),
    )
    with torch.no_grad():
        model.text.proj.weight += torch.from_numpy(update.matrix())
    changed = normalize(text_features(model, texts, tokenizer))
    np.testing.assert_allclose(text_parts.embeds(update), changed, atol=1e-5)


def test_text_parts_of_a_tower_with_a_lexicon() -> None:
    """The bundled text tower adds vectors of names after its last linear map."""
    directory, encoder = find_model("small"), load("small")
    texts = ["a photo of a broadsword.", "a dog", "the", "an old castle near a river in the rain"]
    text_parts = compute_text_parts(load_model(directory), texts, encoder.tokenizer)
    assert np.abs(text_parts.additions).max() > 0.01
    np.testing.assert_allclose(text_parts.embeds(), encoder.encode_text(texts), atol=1e-3)


def test_text_features_keep_their_order(tiny_directory: Path) -> None:
    model, encoder = load_model(tiny_directory), load(tiny_directory)
    texts = ["a dog", "a much longer sentence about a dog and a cat", "cat", "two words"]
    features = text_features(model, texts, encoder.tokenizer)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(features, encoder.encode_text(texts), atol=1e-5)


def test_image_features_of_an_unreadable_picture() -> None:
    torch.manual_seed(0)
    model = CLIP(tiny_config()).eval()
    pictures = [path.read_bytes() for path in sorted(Path("examples/photos").glob("*.jpg"))[:3]]
    features = image_features(model, [b"broken", *pictures])
    assert np.isnan(features[0]).all() and np.isfinite(features[1:]).all()


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
