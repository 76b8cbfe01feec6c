"""Fixtures of the tests of the index."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _stop_milvus() -> Iterator[None]:
    """Stop the servers of Milvus Lite: threads of this process that outlive the test."""
    yield
    if module := sys.modules.get("milvus_lite.server_manager"):
        module.server_manager_instance.release_all()
