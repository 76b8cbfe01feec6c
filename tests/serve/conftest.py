import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from tests.serve.running import running_server
from tests.serve.sample_pictures import PHOTOS
from twotower.library import Library


@pytest.fixture(scope="session")
def models_url() -> Iterator[str]:
    """The address of a server of the small model, without a library."""
    with running_server(["--model", "small"]) as url:
        yield url


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that is indexed with the small model; the cat and the dog are twice."""
    root = tmp_path_factory.mktemp("served") / "photos"
    (root / "copies").mkdir(parents=True)
    for name in ("cat", "dog", "car", "bus", "fig", "beach"):
        shutil.copy(PHOTOS / f"{name}.jpg", root)
    for name in ("cat", "dog"):
        shutil.copy(PHOTOS / f"{name}.jpg", root / "copies" / f"{name}-2.jpg")
    library = Library(root, model="small")
    library.index()
    library.close()
    return root


@pytest.fixture(scope="session")
def library_url(photos: Path) -> Iterator[str]:
    """The address of a server of `photos`, and of the library's model."""
    with running_server([str(photos)]) as url:
        yield url
