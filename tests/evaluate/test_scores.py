"""Compare metrics with values computed by hand, by brute force and by scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from twotower.evaluate.accuracy import (
    average_precisions,
    class_ranks,
    precision_orders,
    top_k_accuracy,
    top_probability,
)
from twotower.evaluate.reliability import measure_reliability
from twotower.evaluate.retrieval import recall_at_k, retrieval_ranks

AXES = np.eye(3, dtype=np.float32)


def test_recall_by_hand() -> None:
    """Rank two pictures: captions 0 and 2 find their own picture first, caption 1 second."""
    images = AXES[:2]
    texts = np.array([[0.9, 0.1, 0], [0.3, 0.8, 0], [0.2, 0.7, 0]], np.float32)
    owners = np.array([0, 0, 1])
    assert recall_at_k(images, texts, owners, 1) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    # the best caption of picture 1 is number 1, which belongs to picture 0; its own is second
    assert recall_at_k(images, texts, owners, 2) == (1.0, 1.0)


def test_ranks_by_hand() -> None:
    images = AXES
    texts = np.array([[0.5, 0.6, 0.7], [0.5, 0.4, 0.3], [0.1, 0.9, 0.2], [0.9, 0, 0.8]], np.float32)
    texts_ranks, image_ranks = retrieval_ranks(images, texts, np.array([0, 0, 1, 2]))
    assert texts_ranks.tolist() == [2, 0, 0, 1]
    # picture 0: caption 3 (.9) before its best (.5); 1: none before .9; 2: none before .8
    assert image_ranks.tolist() == [1, 0, 0]


def test_ties_count_as_errors() -> None:
    """Check that a model whose scores are all equal has no hits, in any order."""
    equal = np.full((4, 3), 1 / np.sqrt(3), np.float32)
    assert recall_at_k(equal, equal, np.arange(4), 3) == (0.0, 0.0)
    assert recall_at_k(equal, equal, np.arange(4), 4) == (1.0, 1.0)
    assert top_k_accuracy(equal, equal, np.arange(4)) == 0.0


def test_other_captions_of_a_picture_are_not_counted() -> None:
    images = AXES[:2]
    texts = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    _, image_ranks = retrieval_ranks(images, texts, np.array([0, 0, 0, 1]))
    assert image_ranks.tolist() == [0, 0]


def test_nan_counts_as_an_error() -> None:
    broken = np.full((3, 3), np.nan, np.float32)
    assert recall_at_k(AXES, broken, np.arange(3), 2) == (0.0, 0.0)
    assert top_k_accuracy(broken, AXES, np.arange(3), 2) == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 9))
def test_block_size_does_not_change_ranks(seed: int, block: int, captions: int) -> None:
    """Compare with the ranks of the whole matrix, with many equal scores."""
    random = np.random.default_rng(seed)
    images = random.integers(-1, 2, (6, 4)).astype(np.float32)
    owners = random.integers(0, 6, captions)
    texts = random.integers(-1, 2, (captions, 4)).astype(np.float32)
    scores = texts @ images.T
    correct = scores[np.arange(captions), owners]
    text_ranks = [
        sum(scores[t, i] >= correct[t] for i in range(6) if i != owners[t]) for t in range(captions)
    ]
    image_ranks = []
    for i in range(6):
        best = max((scores[t, i] for t in range(captions) if owners[t] == i), default=-np.inf)
        image_ranks.append(sum(scores[t, i] >= best for t in range(captions) if owners[t] != i))
    ranks = retrieval_ranks(images, texts, owners, block)
    assert ranks[0].tolist() == text_ranks and ranks[1].tolist() == image_ranks


def test_retrieval_holds_one_block_of_scores_in_memory() -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(3000, 8)).astype(np.float32)
    texts = random.normal(size=(4000, 8)).astype(np.float32)
    tracemalloc.start()
    retrieval_ranks(images, texts, random.integers(0, 3000, 4000), block=250)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6  # the whole matrix has 48e6 bytes, a block 0.25e6


def test_recall_by_chance() -> None:
    random = np.random.default_rng(0)
    images, texts = random.normal(size=(200, 64)), random.normal(size=(1000, 64))
    by_text, by_image = recall_at_k(images, texts, np.repeat(np.arange(200), 5), 20)
    assert by_text == pytest.approx(0.1, abs=0.03) and by_image == pytest.approx(0.1, abs=0.06)


def test_top_k() -> None:
    images = np.array([[1, 0.5, 0], [0, 1, 0.5], [0.9, 0, 1]], np.float32)
    labels = np.array([0, 2, 0])
    assert top_k_accuracy(images, AXES, labels, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(images, AXES, labels, 2) == 1.0


def test_of_several_correct_classes_the_best_counts() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1]])
    labels = np.array([[False, True, True], [True, False, True]])
    assert class_ranks(scores, labels).tolist() == [1, 0]


def test_of_namesakes_the_lowest_class_is_the_answer() -> None:
    """Rank classes 0 and 2, which share a name and therefore their scores."""
    scores, namesakes = np.array([[0.9, 0.5, 0.9]] * 3), np.array([4, 7, 4])
    assert class_ranks(scores, np.array([0, 1, 2]), namesakes).tolist() == [0, 2, 1]
    assert class_ranks(scores, np.array([0, 1, 2])).tolist() == [1, 2, 1]


def test_probabilities_are_softmax_or_sigmoid() -> None:
    scores = np.array([[0.3, 0.1]], np.float32)
    assert top_probability(scores, 10.0, None)[0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert top_probability(scores, 10.0, -2.0)[0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_average_precision_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(200, 4)).astype(np.float32)
    labels = random.random((200, 4)) < 0.2
    weights = random.integers(0, 3, 200).astype(float)
    orders = precision_orders(scores, labels)
    ours = average_precisions(labels, orders)
    theirs = [average_precision_score(labels[:, c], scores[:, c]) for c in range(4)]
    assert ours == pytest.approx(theirs)
    ours = average_precisions(labels, orders, weights)
    theirs = [
        average_precision_score(labels[:, c], scores[:, c], sample_weight=weights) for c in range(4)
    ]
    assert ours == pytest.approx(theirs)


def test_average_precision_of_ties_is_the_worst() -> None:
    labels = np.array([[True], [False], [False]])
    orders = precision_orders(np.zeros((3, 1), np.float32), labels)
    assert average_precisions(labels, orders) == pytest.approx([1 / 3])


def test_calibration_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    result = measure_reliability(confidence, right, bins=10)
    assert result.ece == pytest.approx(4 / 6 * abs(0.95 - 0.75) + 2 / 6 * abs(0.55 - 0.5))
    assert result.bins[9]["n"] == 4 and result.bins[9]["accuracy"] == 0.75
    assert result.bins[0]["accuracy"] is None
