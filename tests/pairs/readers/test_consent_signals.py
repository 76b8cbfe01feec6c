import pytest

from twotower.pairs.readers.consent_signals import (
    mining_is_reserved,
    response_refuses,
    robots_refuse,
    usage_refuses,
)


@pytest.mark.parametrize(
    ("value", "refuses"),
    [
        ("noai", True),
        ("NoImageAI", True),
        ("noindex, nofollow", True),
        ("none", True),
        ("all", False),
        ("index,follow", False),
        ("nofollow, max-image-preview:large", False),
        ("max-snippet:-1, noindex", True),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", False),
        ("googlebot: noindex", False),
        ("googlebot: nofollow, noindex", False),
        ("twotower: noindex", True),
        ("*: noai", True),
        ("", False),
    ],
)
def test_robots_directives(value: str, refuses: bool) -> None:
    assert robots_refuse([value]) is refuses
    assert robots_refuse(["all", value]) is refuses


@pytest.mark.parametrize(
    ("value", "refuses"),
    [
        ("train-ai=n", True),
        ("search=y, train-ai=n", True),
        ("train-genai=n", True),
        ("ai-train=no", True),
        ("train-ai=y", False),
        ("search=n", False),
        ("not-train-ai=n", False),
    ],
)
def test_content_usage(value: str, refuses: bool) -> None:
    assert usage_refuses([value]) is refuses


def test_tdm_reservation() -> None:
    assert mining_is_reserved([" 1 "])
    assert not mining_is_reserved(["0", "10"])
    assert response_refuses([("TDM-Reservation", "1")])
    assert not response_refuses([("Content-Type", "noai")])
