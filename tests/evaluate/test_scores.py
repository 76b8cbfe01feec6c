"""Scores worked by hand, and against scikit-learn-free counting."""

import numpy as np
import pytest

from twotower.evaluate.retrieval import recall_at_k
from twotower.evaluate.zero_shot import top_k_accuracy

AXES = np.eye(3, dtype=np.float32)


def test_recall_by_hand() -> None:
    """Two pictures; caption 0 finds its own first, 1 its own second, 2 its own first."""
    images = AXES[:2]
    texts = np.array([[0.9, 0.1, 0], [0.3, 0.8, 0], [0.2, 0.7, 0]], np.float32)
    owners = np.array([0, 0, 1])
    assert recall_at_k(images, texts, owners, 1) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    # picture 1's best caption is number 1, which is picture 0's; its own comes second
    assert recall_at_k(images, texts, owners, 2) == (1.0, 1.0)


def test_recall_of_everything_is_one() -> None:
    random = np.random.default_rng(0)
    images, texts = random.normal(size=(5, 4)), random.normal(size=(15, 4))
    assert recall_at_k(images, texts, np.repeat(np.arange(5), 3), 15) == (1.0, 1.0)


def test_recall_by_chance() -> None:
    random = np.random.default_rng(0)
    images, texts = random.normal(size=(200, 64)), random.normal(size=(1000, 64))
    found, back = recall_at_k(images, texts, np.repeat(np.arange(200), 5), 20)
    assert found == pytest.approx(0.1, abs=0.03) and back == pytest.approx(0.1, abs=0.06)


def test_top_k() -> None:
    images = np.array([[1, 0.5, 0], [0, 1, 0.5], [0.9, 0, 1]], np.float32)
    labels = np.array([0, 2, 0])
    assert top_k_accuracy(images, AXES, labels, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(images, AXES, labels, 2) == 1.0
