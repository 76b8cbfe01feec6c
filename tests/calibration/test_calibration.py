"""A calibration: its file, the model that it belongs to, and the background of pictures."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import twotower
from tests.calibration.worlds import DIM, random_competitors
from twotower.arrays import normalize
from twotower.calibration.background import background_texts, measure_background
from twotower.calibration.calibration import (
    CALIBRATION_FILE,
    TYPICAL_PICTURE,
    Calibration,
    estimate,
    read_calibration,
    require_calibration,
    write_calibration,
)
from twotower.calibration.competitors import COMPETITORS_FILE
from twotower.calibration.curves import LogisticCurve, TextCurves
from twotower.encode.golden import golden_hash
from twotower.encode.registry import BUNDLED_MODELS
from twotower.errors import CalibrationError

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"


# --- background ----------------------------------------------------------------------------------


def test_deviations_by_hand() -> None:
    pictures = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]], np.float32)
    background = measure_background(pictures)
    query = np.array([[1, 0, 0]], np.float32)
    scores = pictures @ query[0]
    sd = np.sqrt(np.cov(pictures.T)[0, 0])  # three dimensions: two kept, the third even
    deviations = background.deviations(query, pictures)
    np.testing.assert_allclose(deviations[:, 0], (scores - scores.mean()) / sd, rtol=0.35)


def test_the_variance_of_a_query_is_that_of_its_scores() -> None:
    random = np.random.default_rng(0)
    pictures = normalize(
        (random.standard_normal((4000, 256)) * np.geomspace(3, 0.1, 256)).astype(np.float32)
    )
    background = measure_background(pictures)
    deviations = background.deviations(pictures[:20], pictures)
    np.testing.assert_allclose(deviations.std(axis=0), 1, rtol=0.1)
    np.testing.assert_allclose(deviations.mean(axis=0), 0, atol=1e-3)


def test_background_texts_are_many_and_none_twice() -> None:
    texts = background_texts()
    assert len(texts) == len(set(texts)) > 500
    assert all(text == text.strip() and text for text in texts)


def test_the_absent_words_were_not_fitted_on() -> None:
    absent = (ROOT / "benchmarks" / "data" / "absent.txt").read_text(encoding="utf-8").splitlines()
    assert len(absent) == len(set(absent)) >= 100
    assert not set(absent) & set(background_texts())


# --- the file ------------------------------------------------------------------------------------


def make_calibration() -> Calibration:
    pictures = normalize(np.random.default_rng(0).standard_normal((50, DIM)).astype("f4"))
    return Calibration(
        text=TextCurves(
            random_competitors(),
            LogisticCurve((0.3, 0.2, -1.0), 0.4),
            LogisticCurve((0.1, 0.1, 0.2, 0.2, 0.1, -5.0), 0.6),
        ),
        image=LogisticCurve((20.0, -15.0), 0.3),
        background=measure_background(pictures),
        precisions=((0.5, 0.3), (0.8, 0.75), (0.9, 0.85)),
        duplicate=0.9,
        model="0123456789abcdef",
    )


def test_a_calibration_is_read_back(tmp_path: Path) -> None:
    before = make_calibration()
    write_calibration(before, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION_FILE]
    text = (tmp_path / CALIBRATION_FILE).read_text()
    after = Calibration.from_json(text, tmp_path, before.text.competitors)
    assert after.text == before.text
    assert replace(after, text=None, background=None) == replace(before, text=None, background=None)
    pictures = normalize(np.random.default_rng(1).standard_normal((9, DIM)).astype("f4"))
    np.testing.assert_array_equal(
        after.background.deviations(pictures, pictures),
        before.background.deviations(pictures, pictures),
    )


def test_the_cutoff_of_a_precision() -> None:
    calibration = make_calibration()
    assert calibration.tag_cutoff(0.5) == 0.3
    assert calibration.tag_cutoff(0.6) == 0.75, "that of the next higher precision"
    assert calibration.tag_cutoff(0.9) == 0.85
    assert calibration.tag_cutoff(0.95) > 1, "never reached"


def damaged(damage: str) -> str:
    """Return the content of a damaged file."""
    tree = json.loads(make_calibration().to_json())
    if damage == "a weight too many":
        tree["name"]["weights"].append(1.0)
    elif damage == "no phrases":
        del tree["phrase"]
    elif damage == "another dimension":
        tree["background"]["pictures"]["shape"] = [DIM // 2, 2]
    elif damage == "cut off":
        return json.dumps(tree)[:-100]
    elif damage == "of an earlier version":
        return json.dumps({"text": {"weights": [1, 2, 3, 4]}, "model": tree["model"]})
    else:
        return damage
    return json.dumps(tree)


@pytest.mark.parametrize(
    "damage",
    [
        *("{", "[]", "{}", "null"),
        *("a weight too many", "no phrases", "another dimension", "cut off"),
        "of an earlier version",
    ],
)
def test_a_damaged_file_is_named(damage: str) -> None:
    source = Path("models/mine/calibration.json")
    with pytest.raises(CalibrationError, match=r"calibration\.json: not a calibration") as caught:
        Calibration.from_json(damaged(damage), source, random_competitors())
    assert "make it again with: twotower calibrate" in str(caught.value)


# --- the model -----------------------------------------------------------------------------------


@pytest.fixture
def tiny(tiny_directory: Path, tmp_path: Path) -> twotower.Encoder:
    """The tiny model, in a directory of its own."""
    for path in tiny_directory.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return twotower.load(tmp_path)


def test_a_calibration_of_other_weights_is_ignored(tiny: twotower.Encoder) -> None:
    assert read_calibration(tiny) is None
    write_calibration(make_calibration(), tiny.directory)
    assert read_calibration(tiny) is None
    assert not (tiny.directory / COMPETITORS_FILE).exists(), "nothing was embedded for it"
    current = replace(make_calibration(), model=golden_hash(tiny.directory))
    write_calibration(current, tiny.directory)
    read = read_calibration(tiny)
    assert read is not None and read.text.name == current.text.name


def test_an_estimate_is_kept_in_the_library(tiny: twotower.Encoder, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    photos = sorted(PHOTOS.glob("*.jpg"))[:12]
    image_embeds = tiny.encode_image(photos)
    with pytest.warns(UserWarning, match="has no calibration.*twotower calibrate"):
        before = require_calibration(tiny, library, lambda: image_embeds)
    assert {path.name for path in library.iterdir()} == {CALIBRATION_FILE, COMPETITORS_FILE}
    with pytest.warns(UserWarning, match="has no calibration"):
        after = require_calibration(tiny, library, lambda: pytest.fail("read from the library"))
    assert after.model == before.model == golden_hash(tiny.directory)
    assert after.image == TYPICAL_PICTURE
    text = before.text.prepare(["a dog"], tiny.encode_text("a dog")[0])
    logits = before.text.logits([text], image_embeds)
    assert np.isfinite(logits).all() and np.ptp(logits) > 0
    np.testing.assert_allclose(after.text.logits([text], image_embeds), logits)


def test_a_damaged_estimate_is_replaced(tiny: twotower.Encoder, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / CALIBRATION_FILE).write_text(f'"{golden_hash(tiny.directory)}"')
    image_embeds = tiny.encode_image(sorted(PHOTOS.glob("*.jpg"))[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimated = require_calibration(tiny, library, lambda: image_embeds)
    assert estimated.model in (library / CALIBRATION_FILE).read_text()
    assert Calibration.from_json(
        (library / CALIBRATION_FILE).read_text(), library, estimated.text.competitors
    )


def test_a_library_that_cannot_be_written_is_no_error(tiny: twotower.Encoder) -> None:
    image_embeds = tiny.encode_image(sorted(PHOTOS.glob("*.jpg"))[:3])
    estimated = estimate(tiny, image_embeds, tiny.directory / "nowhere" / "at all")
    assert estimated.model == golden_hash(tiny.directory)


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_the_bundled_models_are_calibrated_for_their_own_weights(name: str) -> None:
    model = twotower.load(name)
    calibration = read_calibration(model)
    assert calibration is not None, f"make it again: twotower calibrate {name} PAIRS"
    assert 0.05 < calibration.text.name.cutoff < 0.95
    assert 0.05 < calibration.text.phrase.cutoff < 0.95
    assert calibration.image.weights[0] > 0
    text_tower = model.config.text_directory(model.directory)
    assert (text_tower / COMPETITORS_FILE).exists()
    cutoffs = [cutoff for _, cutoff in calibration.precisions]
    assert cutoffs == sorted(cutoffs) and len(cutoffs) > 20
    photos = [PHOTOS / "cat.jpg", PHOTOS / "dog.jpg"]
    embeds = model.encode_image(photos)
    texts = [
        calibration.text.prepare([name], model.encode_text(name)[0]) for name in ("cat", "dog")
    ]
    logits = calibration.text.logits(texts, embeds)
    assert logits[0, 0] > logits[1, 0] and logits[1, 1] > logits[0, 1]
