"""Details of requests that the tests of whole runs do not reach."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

pytest.importorskip("aiohttp")

from twotower.pairs.fetching.web_client import parse_retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3), (" 120 ", 120), ("-1", 0), ("soon", 0), ("", 0), ("\u0663", 0),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("9" * 5000, 999_999_999)],
)  # fmt: skip
def test_retry_after(value: str, seconds: float) -> None:
    assert parse_retry_after({"Retry-After": value}) == seconds


def test_retry_after_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < parse_retry_after({"Retry-After": date}) <= 60
