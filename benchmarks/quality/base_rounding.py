"""Measure what rounding to 4 bits costs twotower-base.

    python benchmarks/quality/base_rounding.py DATA [MODEL]

OpenAI's image tower in float32 and the bundled one in onnxruntime encode the pictures of
DATA/cifar10-dev and DATA/flickr8k-val; the text tower is the bundled one for both. Neither set was
used for rounding. Writes results/base_rounding.csv, with paired 95 % intervals of the difference:
pictures are resampled, each with its captions. The vectors are kept in twotower's cache.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import twotower
from benchmarks.table import write_results
from recipes.twotower_base.pictures import normalize as normalize_pixels
from recipes.twotower_small.pretrained import load_image_tower
from twotower.arrays import Float32Array, Float64Array, UInt8Array, normalize
from twotower.encode.encoder import Encoder
from twotower.encode.golden import image_fingerprint
from twotower.evaluate.embedding import make_classifier
from twotower.evaluate.intervals import bootstrap
from twotower.evaluate.models import TwotowerModel
from twotower.evaluate.retrieval import retrieval_ranks
from twotower.evaluate.sets import open_set
from twotower.pairs.sources import open_source
from twotower.train.embed_cache import open_cache, sample_key

COLUMNS = ("measure", "n", "float32", "4 bits", "difference", "low", "high")
BATCH = 8


def main() -> None:
    data = Path(sys.argv[1])
    model = twotower.load(sys.argv[2] if len(sys.argv) > 2 else "base")
    rows = [*measure_cifar(model, data), *measure_flickr(model, data)]
    write_results("base_rounding.csv", COLUMNS, rows)


def measure_cifar(model: Encoder, data: Path) -> list[Sequence[object]]:
    labelled = open_set(data / "cifar10-dev" / "cifar10-dev.npz")
    assert labelled.public_set is not None
    templates = labelled.public_set.templates
    classifier = make_classifier(TwotowerModel(model), labelled.classes, templates)
    exact, rounded = encode(model, [np.asarray(picture) for picture in labelled])
    right, rounded_right = (
        ((embeds @ classifier.T).argmax(axis=1) == labelled.labels).astype(np.float64)
        for embeds in (exact, rounded)
    )
    compared = compare("CIFAR-10, top-1", right, rounded_right, np.ones(len(exact)))
    return [cosines("CIFAR-10", exact, rounded), compared]


def measure_flickr(model: Encoder, data: Path) -> list[Sequence[object]]:
    source = open_source(data / "flickr8k-val")
    pairs = [source[number] for number in range(len(source))]
    captions = [caption for pair in pairs for caption in pair.captions]
    counts = np.array([len(pair.captions) for pair in pairs])
    owners = np.repeat(np.arange(len(pairs)), counts)
    text_embeds = model.encode_text(captions)
    exact, rounded = encode(
        model, [np.asarray(Image.open(io.BytesIO(pair.picture)).convert("RGB")) for pair in pairs]
    )
    ranks = [retrieval_ranks(embeds, text_embeds, owners)[0] for embeds in (exact, rounded)]
    rows: list[Sequence[object]] = [cosines("Flickr8k", exact, rounded)]
    for k in (1, 5):
        hits, rounded_hits = (
            np.bincount(owners, rank < k, len(pairs)).astype(np.float64) for rank in ranks
        )
        name = f"Flickr8k, text to image R@{k}"
        rows.append(compare(name, hits, rounded_hits, counts.astype(np.float64)))
    return rows


def encode(model: Encoder, pictures: list[UInt8Array]) -> tuple[Float32Array, Float32Array]:
    """Return image_embeds [n, embed_dim] of the tower in float32 and of the rounded one."""
    squares = [np.asarray(model.preprocess.square(picture)) for picture in pictures]
    tower = load_image_tower()

    @torch.inference_mode()
    def encode_exactly(rows: list[int]) -> Float32Array:
        pixels = torch.from_numpy(np.stack([squares[row] for row in rows])).permute(0, 3, 1, 2)
        batches = [tower(normalize_pixels(batch)) for batch in pixels.split(BATCH)]
        return normalize(torch.cat(batches).numpy())

    def encode_rounded(rows: list[int]) -> Float32Array:
        return model.encode_image([squares[row] for row in rows], BATCH)

    return (
        cached("openai-vit-b-16-float32", squares, encode_exactly),
        cached(image_fingerprint(model.directory), squares, encode_rounded),
    )


def cached(
    model: str, squares: list[UInt8Array], compute: Callable[[list[int]], Float32Array]
) -> Float32Array:
    """Return image_embeds of squares [n, embed_dim], computed where the cache lacks them."""
    cache = open_cache(model, "image-embeds")
    keys = [sample_key(square.tobytes()) for square in squares]
    cache.fill(keys, compute)
    return cache[keys]


def cosines(name: str, exact: Float32Array, rounded: Float32Array) -> Sequence[object]:
    cosine = (exact * rounded).sum(axis=1)
    title = f"{name}, cosine to float32: mean (lowest)"
    return title, len(cosine), "1", f"{cosine.mean():.4f} ({cosine.min():.4f})", "", "", ""


def compare(
    name: str, exact: Float64Array, rounded: Float64Array, counts: Float64Array
) -> Sequence[object]:
    """Compare shares of hits: [n] hits of each picture among its `counts`."""
    hits = np.stack([exact, rounded], axis=1)
    shares = 100 * hits.sum(axis=0) / counts.sum()

    def difference(weights: Float64Array) -> Float64Array:
        return np.array([100 * weights @ (rounded - exact) / (weights @ counts)])

    [[low, high]] = bootstrap(difference, len(counts))
    numbers = (*shares, shares[1] - shares[0], low, high)
    return name, len(counts), *(f"{number:.1f}" for number in numbers)


if __name__ == "__main__":
    main()
