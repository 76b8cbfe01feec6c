"""The choice among copies, placeholders, and texts of many pictures."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twotower.pairs.filters.duplicates import beyond_limit, pairs_with_many_texts, worse_copies
from twotower.pairs.filters.scores import below_share


def test_the_largest_copy_is_the_best() -> None:
    groups = np.array([7, 7, 7, 7, 3])
    samples = np.array([0, 0, 1, 2, 3])
    pixels = np.array([100, 100, 400, 400, 50])
    ranks = np.array([1, 2, 9, 8, 5], np.uint64)
    assert worse_copies(groups, samples, pixels, ranks).tolist() == [1, 1, 1, 0, 0]


def test_all_texts_of_the_best_copy_stay() -> None:
    groups, samples = np.array([0, 0, 0]), np.array([4, 4, 5])
    pixels, ranks = np.array([9, 9, 9]), np.array([5, 1, 3], np.uint64)
    assert worse_copies(groups, samples, pixels, ranks).tolist() == [0, 0, 1]


def test_pictures_with_many_texts() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 2])
    texts = np.array([1, 2, 3, 4, 4, 5, 6], np.uint64)
    assert pairs_with_many_texts(groups, texts, 2).tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_the_limit_keeps_the_lowest_ranks() -> None:
    groups = np.array([0, 1, 0, 0, 1])
    ranks = np.array([3, 1, 2, 1, 2], np.uint64)
    assert beyond_limit([groups], ranks, 2).tolist() == [1, 0, 0, 0, 0]
    pair_columns = [groups, np.array([0, 0, 1, 0, 0], np.uint64)]
    assert beyond_limit(pair_columns, ranks, 1).tolist() == [1, 0, 0, 0, 1]


def test_the_best_share_is_kept() -> None:
    scores = np.array([0.1, 0.3, 0.2, 0.3, -2.0], np.float32)
    ranks = np.array([0, 2, 0, 1, 0], np.uint64)
    assert below_share(scores, ranks, 0.2).tolist() == [1, 1, 1, 0, 1]
    assert below_share(scores, ranks, 0.3).tolist() == [1, 0, 1, 0, 1]
    assert below_share(scores, ranks, 1.0).tolist() == [0, 0, 0, 0, 0]
    assert below_share(scores[:0], ranks[:0], 0.3).tolist() == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2**64 - 1)), max_size=40
    ),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_choices_do_not_depend_on_the_order(rows, limit, random) -> None:  # type: ignore[no-untyped-def]
    rows = [(*row, number) for number, row in enumerate(rows)]
    rows = list({rank: (group, text, rank, number) for group, text, rank, number in rows}.values())

    def kept(order):  # type: ignore[no-untyped-def]
        groups = np.array([row[0] for row in order], np.int64)
        texts = np.array([row[1] for row in order], np.uint64)
        ranks = np.array([row[2] for row in order], np.uint64)
        masks = (
            beyond_limit([groups], ranks, limit),
            pairs_with_many_texts(groups, texts, limit),
            below_share((texts % np.uint64(3)).astype(np.float32), ranks, 0.4),
        )
        numbers = np.array([row[3] for row in order], np.int64)
        return [set(numbers[~mask].tolist()) for mask in masks]

    shuffled = list(rows)
    random.shuffle(shuffled)
    assert kept(rows) == kept(shuffled)
