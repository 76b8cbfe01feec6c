"""Shared by the tests of bulk embedding: collections of pictures, and a reader of the output."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet


def picture(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    """Return a PNG of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(blocks).resize(size, PIL.Image.Resampling.NEAREST).save(file, "png")
    return file.getvalue()


def write_folder(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(start, start + count):
        (folder / f"{seed:05d}.png").write_bytes(picture(seed))
    return folder


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], group: int = 7) -> Path:
    pyarrow.parquet.write_table(pa.table(dict(columns)), path, row_group_size=group)
    return path


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all shards; an id that is in two rows is an error."""
    rows = [
        row
        for path in sorted((out / "embeddings").glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    assert len({row["id"] for row in rows}) == len(rows)
    return rows


def embeds_of(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([row["embedding"] for row in rows], np.float32)
