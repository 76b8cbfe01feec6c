"""Image_embeds of the package's outside set, which are shipped for the default model.

The default model takes minutes to embed the 274 emoji; the vectors are 300 kB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array
from twotower.encode.golden import image_fingerprint
from twotower.files import atomic_write
from twotower.train.embed_cache import KEY_BYTES, EmbedCache
from twotower.train.recipes import EMOJI

STORED_EMBEDS = EMOJI / "image_embeds.npz"  # made by `python -m recipes.outside_embeds`


def add_stored_embeds(cache: EmbedCache, directory: Path, path: Path = STORED_EMBEDS) -> None:
    """Add the stored vectors to a cache, if they are those of the model's image tower."""
    with np.load(path) as arrays:
        if image_fingerprint(directory) != str(arrays["image_fingerprint"]):
            return
        keys, vectors = arrays["keys"], arrays["vectors"]
    cache.fill([key.tobytes() for key in keys], lambda rows: vectors[rows].astype(np.float32))


def write_stored_embeds(
    keys: Sequence[bytes], image_embeds: Float32Array, directory: Path, path: Path = STORED_EMBEDS
) -> None:
    """Write the vectors of pictures, in half precision.

    Args:
        keys: [n], `sample_key` of each picture.
        image_embeds: [n, embed_dim], by the model in `directory`.
    """
    table = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
    with atomic_write(path, "wb") as file:
        np.savez_compressed(
            file,
            image_fingerprint=image_fingerprint(directory),
            keys=table,
            vectors=image_embeds.astype(np.float16),
        )
