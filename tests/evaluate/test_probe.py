"""Linear probe, splits without leaks, shots, Tip-Adapter and corruptions."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from twotower.errors import EvaluationError
from twotower.evaluate.corruptions import KINDS, choose_kinds, corrupt
from twotower.evaluate.logistic import COARSE_C, fit_logistic, search_c
from twotower.evaluate.probe import draw_shots, hold_out, open_split
from twotower.evaluate.tip_adapter import TipAdapter


def features(classes: int, n: int = 300) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return unit vectors, and labels that depend on them."""
    random = np.random.default_rng(classes)
    vectors = random.normal(size=(n, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = 4 * vectors @ random.normal(size=(16, classes)) + random.gumbel(size=(n, classes))
    return vectors, logits.argmax(axis=1)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("c", [0.01, 1.0, 50.0])
def test_the_probe_is_scikit_learns(classes: int, c: float) -> None:
    vectors, labels = features(classes)
    theirs = LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(vectors, labels)
    ours = fit_logistic(vectors, labels, classes, c, tolerance=1e-9)
    exponentials = np.exp(ours.logits(vectors).astype(float))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert np.abs(probabilities - theirs.predict_proba(vectors)).max() < 1e-5
    if classes > 2:  # with two, scikit-learn keeps one vector of the two
        assert np.abs(ours.weights - theirs.coef_).max() < 1e-3


def test_where_it_starts_does_not_matter() -> None:
    vectors, labels = features(4)
    near = fit_logistic(vectors, labels, 4, 10.0)
    warm = fit_logistic(vectors, labels, 4, 1.0, near, tolerance=1e-9)
    cold = fit_logistic(vectors, labels, 4, 1.0, tolerance=1e-9)
    assert np.abs(warm.weights - cold.weights).max() < 1e-4


def test_one_class_is_no_probe() -> None:
    with pytest.raises(EvaluationError, match="two classes"):
        fit_logistic(np.ones((3, 2)), np.zeros(3, np.int64), 1, 1.0)


def test_the_search_finds_the_peak_in_fifteen_fits() -> None:
    tried: list[float] = []

    def score(c: float) -> float:
        tried.append(c)
        return -abs(np.log10(c) - 1.4)

    assert np.log10(search_c(score)) == pytest.approx(1.4, abs=1 / 8)
    assert len(tried) == 15 and len(set(tried)) == 15
    assert search_c(lambda c: 0.5) == COARSE_C[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 9))
def test_held_out_pictures_are_never_trained_on(labels: list[int], seed: int) -> None:
    numbers = np.array(labels)
    held_out, remaining = hold_out(numbers, seed=seed)
    assert sorted([*held_out, *remaining]) == list(range(len(labels)))
    for label in set(labels):
        assert (numbers[remaining] == label).any()  # no class is held out entirely
        if labels.count(label) > 1:
            assert (numbers[held_out] == label).any()


def test_the_three_sets_of_a_probe_share_no_picture(folders: Path) -> None:
    split = open_split(str(folders))
    sets = [labelled.keys for labelled in (split.train, split.validation, split.test)]
    joined = [key for keys in sets for key in keys]
    assert all(sets) and len(joined) == len(set(joined)) == 12


def test_a_folder_with_train_and_test_is_a_split(folders: Path, tmp_path: Path) -> None:
    for name in ("train", "test", "val"):
        shutil.copytree(folders, tmp_path / "all" / name)
    split = open_split(str(tmp_path / "all"))
    for name, labelled in (("train", split.train), ("test", split.test), ("val", split.validation)):
        assert len(labelled.keys) == 12 and labelled.name == str(tmp_path / "all" / name)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 5))
def test_shots_are_drawn_from_each_class(labels: list[int], shots: int) -> None:
    numbers = np.array(labels)
    drawn = draw_shots(numbers, shots, np.random.default_rng(0))
    fewest = min(labels.count(label) for label in set(labels))
    if fewest < shots:
        assert drawn is None
    else:
        assert drawn is not None and len(set(drawn.tolist())) == len(drawn)
        assert np.bincount(numbers[drawn]).tolist() == [
            shots if label in labels else 0 for label in range(max(labels) + 1)
        ]


def test_tip_adapter_by_hand() -> None:
    eye = np.eye(2, dtype=np.float32)
    tip = TipAdapter(eye, eye[[1]], np.array([0]), scale=10.0, alpha=3.0, beta=2.0)
    # class 1 by text: 10 * 1; class 0 by the labelled picture, which is equal: 3 * exp(0)
    assert tip.logits(eye[[1]])[0] == pytest.approx([3.0, 10.0])
    assert tip.logits(eye[[0]])[0] == pytest.approx([10 + 3 * np.exp(-2), 0.0], rel=1e-5)


def test_a_tuned_adapter_is_at_least_as_accurate_as_text_alone() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(90, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = random.integers(0, 3, 90)
    tip = TipAdapter(vectors[:3], vectors[3:30], labels[3:30], 100.0)
    by_text = (vectors[30:] @ vectors[:3].T).argmax(axis=1) == labels[30:]
    tuned = tip.tune(vectors[30:], labels[30:]).logits(vectors[30:]).argmax(axis=1)
    assert (tuned == labels[30:]).mean() >= by_text.mean()


# --- corruptions ---------------------------------------------------------------------------------


def photograph() -> NDArray[np.uint8]:
    y, x = np.mgrid[:230, :300]
    waves = [127 + 100 * np.sin(x / (9 + c)) * np.cos(y / (13 - c)) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_grow_with_severity_and_are_reproducible(kind: str) -> None:
    clean = np.asarray(photograph()[3:227, 38:262], float)
    changes = []
    for severity in (1, 3, 5):
        changed = corrupt(photograph(), kind, severity, number=4)
        assert isinstance(changed, np.ndarray)
        assert changed.shape == (224, 224, 3) and changed.dtype == np.uint8
        assert np.array_equal(changed, corrupt(photograph(), kind, severity, number=4))
        changes.append(np.abs(changed - clean).mean())
    assert 0.5 < changes[0] < changes[-1], changes


def test_noise_differs_from_picture_to_picture() -> None:
    pictures = [corrupt(photograph(), "gaussian_noise", 1, number) for number in (0, 1)]
    assert not np.array_equal(*pictures)


def test_blur_keeps_brightness() -> None:
    for kind in ("gaussian_blur", "defocus_blur", "motion_blur"):
        changed = corrupt(photograph(), kind, 5, 0)
        assert isinstance(changed, np.ndarray)
        assert changed.mean() == pytest.approx(photograph().mean(), abs=2.5), kind


def test_an_unreadable_picture_is_returned_unchanged() -> None:
    assert corrupt(b"nothing", "fog", 1, 0) == b"nothing"


def test_kinds_are_chosen_by_name_or_family() -> None:
    assert choose_kinds(["jpeg", "noise"]) == [
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "jpeg",
    ]
    assert choose_kinds(["all"]) == list(KINDS) and choose_kinds([]) == []
    with pytest.raises(
        EvaluationError, match="corruption 'rain': unknown; choose from: all, noise"
    ):
        choose_kinds(["rain"])
