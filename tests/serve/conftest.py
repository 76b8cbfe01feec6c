from collections.abc import Iterator

import pytest

pytest.importorskip("starlette")

from tests.serve.running import running_server


@pytest.fixture(scope="session")
def models_url() -> Iterator[str]:
    """The address of a server of the small model, without a library."""
    with running_server(["--model", "small"]) as url:
        yield url
