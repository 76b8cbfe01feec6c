from collections.abc import Iterator

import pytest

pytest.importorskip("aiohttp")

from tests.pairs.web_in_a_box import WebInABox


@pytest.fixture(scope="module")
def shared_box() -> Iterator[WebInABox]:
    """A small web for the tests of a file."""
    with WebInABox() as box:
        yield box
