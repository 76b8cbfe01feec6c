import shutil
import subprocess
import sys
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
    """A folder with the example photos, indexed with the small model and once tagged."""
    folder = tmp_path_factory.mktemp("library") / "photos"
    (folder / "animals").mkdir(parents=True)
    for path in sorted(PHOTOS.iterdir()):
        if path.suffix not in (".md", ".csv"):
            in_folder = path.stem in ("cat", "dog", "horse", "cow", "elephant", "giraffe")
            shutil.copy2(path, folder / "animals" if in_folder else folder)
    shutil.copy2(folder / "animals" / "cat.jpg", folder / "copy of the cat.jpg")
    command = [sys.executable, "-m", "twotower"]
    for arguments in (
        ["index", str(folder), "--model", "small"],
        ["tag", "--dry-run", str(folder)],
    ):
        subprocess.run([*command, *arguments], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def library_url(photos: Path) -> Iterator[str]:
    """The address of a server of the photos that cannot be changed by clients."""
    with running_server([str(photos), "--no-allow-writes"]) as url:
        yield url


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """A copy of the indexed photos, for tests that change it."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


@pytest.fixture(scope="session")
def eight_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def eight_photos_url(eight_photos: Path) -> Iterator[str]:
    """The address of a server of `eight_photos`, and of the library's model."""
    with running_server([str(eight_photos)]) as url:
        yield url
