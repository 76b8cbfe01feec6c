"""Fixtures of the tests of the index."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.index.postgres import PostgresServer


@pytest.fixture(autouse=True)
def _stop_milvus() -> Iterator[None]:
    """Stop the servers of Milvus Lite: threads of this process that outlive the test."""
    yield
    if module := sys.modules.get("milvus_lite.server_manager"):
        module.server_manager_instance.release_all()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server of PostgreSQL with pgvector, shared by all tests; each names its own tables."""
    with closing(PostgresServer()) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresServer:
    """The shared server, running."""
    pytest.importorskip("psycopg", reason="pip install 'twotower[postgres]'")
    postgres_server.ensure_running()
    return postgres_server


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory where there is such a disk.

    A local folder of Qdrant waits for the disk after each vector.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
