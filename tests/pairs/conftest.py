import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pytest


def picture(seed: int = 0, kind: str = "jpeg", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


Write = Callable[[str, Mapping[str, bytes]], Path]


@pytest.fixture
def write_tar(tmp_path: Path) -> Write:
    """Write a tar of named contents."""

    def write(name: str, members: Mapping[str, bytes]) -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w") as tar:
            for member, content in members.items():
                header = tarfile.TarInfo(member)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
        return path

    return write


def sample(key: str, seed: int = 0, captions: int = 1) -> dict[str, bytes]:
    """Return the members of a valid sample."""
    texts = [f"caption {i} of {key}" for i in range(captions)]
    return {
        f"{key}.jpg": picture(seed),
        f"{key}.txt": texts[0].encode(),
        f"{key}.json": json.dumps({"captions": texts}).encode(),
    }
