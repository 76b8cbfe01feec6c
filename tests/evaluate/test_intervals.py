"""Check the coverage of intervals, and the paired test against McNemar's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.evaluate.intervals import bootstrap, bootstrap_shares, sign_flip_test, wilson


def test_an_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        right = (random.random(120) < 0.7).astype(float)
        [[low, high]] = bootstrap_shares(right[:, None], np.ones(120), 200, trial)
        covered += low <= 0.7 <= high
    assert 178 <= covered <= 200  # 190 expected; the percentile bootstrap is a little narrow


def test_captions_of_a_picture_are_drawn_together() -> None:
    """Check that five copies of each answer do not narrow the interval."""
    right = np.repeat([1.0, 0.0], 40)
    [[low, high]] = bootstrap_shares(right[:, None], np.ones(80))
    [[low5, high5]] = bootstrap_shares(5 * right[:, None], np.full(80, 5.0))
    assert (low, high) == (low5, high5)
    assert high - low > 0.15


def test_a_share_of_one_has_an_interval() -> None:
    [[low, high]] = bootstrap_shares(np.ones((10, 1)), np.ones(10))
    assert low == pytest.approx(0.722, abs=0.001) and high == pytest.approx(1)


def test_wilson_against_its_published_case() -> None:
    # 81 of 263: Newcombe 1998, table I, method 3: 0.2553 to 0.3662
    assert wilson(81 / 263, 263) == (
        pytest.approx(0.2553, abs=5e-5),
        pytest.approx(0.3662, abs=5e-5),
    )


def test_a_statistic_that_is_always_nan_has_no_interval() -> None:
    assert np.isnan(bootstrap(lambda weights: np.array([np.nan]), 5)).all()


@pytest.mark.parametrize(("better", "worse"), [(10, 2), (7, 7), (25, 12), (3, 0)])
def test_for_right_and_wrong_answers_the_test_is_mcnemars(better: int, worse: int) -> None:
    differences = np.array([1.0] * better + [-1.0] * worse + [0.0] * 50)
    n, k = better + worse, max(better, worse)
    exact = min(1.0, 2 * sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n)
    assert sign_flip_test(differences) == pytest.approx(exact, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_the_test_is_symmetric(differences: list[int]) -> None:
    values = np.array(differences, float)
    p = sign_flip_test(values)
    assert 0 < p <= 1
    assert p == sign_flip_test(-values)
