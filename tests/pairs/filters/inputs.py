"""Fetched shards and candidates in the formats of `twotower pairs fetch` and `collect`."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

WORDS = """harbour lantern meadow violin granite orchard glacier saddle thimble canyon beacon
walnut ferry parrot anvil cathedral plum ribbon tractor comet""".split()


def photograph(seed: int, size: tuple[int, int] = (320, 240)) -> PIL.Image.Image:
    """Return a picture with the spectrum of photographs, most of it in low frequencies."""
    generator = np.random.default_rng(seed)
    blocks = [
        PIL.Image.fromarray(generator.integers(0, 256, (n, n, 3), np.uint8)).resize(size)
        for n in (3, 6, 12)
    ]
    mixed = np.mean([np.asarray(block, np.float32) for block in blocks], axis=0)
    return PIL.Image.fromarray(mixed.astype(np.uint8))


def encoded(image: PIL.Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def sentence(seed: int) -> str:
    """Return a text that is unlike that of another seed."""
    generator = np.random.default_rng(seed)
    chosen = generator.choice(WORDS, 6, replace=False)
    return f"the {' '.join(chosen)} number {seed}"


def fetched(
    key: str, picture: bytes, captions: Sequence[str], url: str = "", **fields: Any
) -> dict[str, bytes]:
    """Return the members of a sample as `fetch` writes them."""
    url = url or f"https://example.org/{key}.jpg"
    tree = {
        "url": url,
        "page_url": "https://example.org/",
        "captions": list(captions),
        "caption_sources": ["alt"] * len(captions),
        "language": "en",
        "key": key,
        **fields,
    }
    members = {f"{key}.jpg": picture, f"{key}.json": json.dumps(tree, indent=4).encode()}
    if captions:
        members[f"{key}.txt"] = captions[0].encode()
    return members


def write_shard(folder: Path, number: int, samples: Sequence[dict[str, bytes]]) -> Path:
    """Write a tar of samples."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:05d}.tar"
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            for name, content in sample.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_candidates(folder: Path, number: int, rows: Sequence[tuple[str, str]]) -> Path:
    """Write a file of candidates from addresses and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{number:05d}.parquet"
    count = len(rows)
    columns = {
        "url": pa.array([url for url, _ in rows], pa.string()),
        "caption": pa.array([caption for _, caption in rows], pa.string()),
        "caption_source": pa.array(["alt"] * count, pa.string()),
        "page_url": pa.array(["https://example.org/"] * count, pa.string()),
        "language": pa.array([""] * count, pa.string()),
        "width": pa.array([0] * count, pa.int32()),
        "height": pa.array([0] * count, pa.int32()),
        "source": pa.array(["crawl.warc.gz:0"] * count, pa.string()),
    }
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def selected(out: Path) -> list[dict[str, Any]]:
    """Return all rows of a selection, in order."""
    paths = sorted((out / "selection").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def reasons_by_key(out: Path) -> dict[tuple[str, str, int], str]:
    """Return "filter: reason", or "", of each pair by shard, key and number of its text."""
    return {
        (row["shard"], row["key"], row["caption"]): ": ".join(
            filter(None, (row["filter"], row["reason"]))
        )
        for row in selected(out)
    }
