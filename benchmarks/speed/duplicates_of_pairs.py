"""Find planted near-duplicates among a million pairs: time, peak memory, precision and recall.

    python benchmarks/speed/duplicates_of_pairs.py [PAIRS]

Texts: 12 words of a Zipf distribution over 50,000 words. A tenth of them are copies of others, with
other case and punctuation, one word more, or one letter changed. Pictures: hashes of random bits,
as those of unlike photographs nearly are; a tenth are copies, which differ in the bits in which
copies of example photographs do (JPEG at quality 20, half size, 2 % and 4 % cropped). The peer for
texts is datasketch's MinHashLSH with as many components, on a fiftieth of the pairs. Precision:
of the pairs of rows in a group, those that are copies of the same original. Recall: of the copies,
those in the group of their original. Each method runs in a process of its own. Writes
results/duplicates_of_pairs.csv.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.table import ROOT, write_results
from twotower.arrays import Int64Array, UInt8Array
from twotower.inputs.pictures import find_pictures, on_white, open_picture
from twotower.pairs.filters.groups import picture_groups, text_groups
from twotower.pairs.filters.minhash import COMPONENTS, text_signatures
from twotower.pairs.filters.pictures import HASH_BYTES, hash_pictures
from twotower.pairs.filters.settings import FilterSettings
from twotower.pairs.filters.texts import normal_form, text_key

COLUMNS = (
    *("method", "pairs", "cpu_seconds", "seconds", "peak_mib", "precision", "recall"),
    "microseconds_a_pair",
)
PEER_SHARE, COPIES = 50, 0.1
SETTINGS = FilterSettings()
CHANGES: tuple[Callable[[Image.Image], Image.Image], ...] = (
    lambda image: Image.open(io.BytesIO(jpeg(image, 20))),
    lambda image: image.resize((image.width // 2, image.height // 2)),
    lambda image: crop(image, 0.02),
    lambda image: crop(image, 0.04),
)


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
        return
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    runs = [
        ("texts, twotower", pairs),
        ("texts, twotower", pairs // PEER_SHARE),
        ("texts, datasketch", pairs // PEER_SHARE),
        ("pictures, twotower", pairs),
    ]
    rows = []
    for name, count in runs:
        command = [sys.executable, __file__, "--run", name, str(count)]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append([name, count, *json.loads(process.stdout)])
        print(*rows[-1], flush=True)
    write_results("duplicates_of_pairs.csv", COLUMNS, rows)


def measure(name: str, pairs: int) -> list[str]:
    """Run a method on planted copies and return its figures."""
    originals = plant(pairs)
    method = METHODS[name]
    content = make_hashes(originals) if name.startswith("pictures") else make_texts(originals)
    start, cpu_start = time.perf_counter(), time.process_time()
    groups = method(content)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    precision, recall = quality(groups, originals)
    return [
        *(f"{cpu_seconds:.1f}", f"{seconds:.1f}", f"{peak:.0f}"),
        *(f"{precision:.4f}", f"{recall:.4f}", f"{1e6 * cpu_seconds / pairs:.0f}"),
    ]


def plant(pairs: int) -> Int64Array:
    """Return for each row the row that it is a copy of, or its own number [pairs]."""
    generator = np.random.default_rng(0)
    originals = np.arange(pairs)
    copies = generator.random(pairs) < COPIES
    sources = generator.choice(np.flatnonzero(~copies), copies.sum())
    originals[copies] = sources
    return originals


def make_texts(originals: Int64Array) -> list[str]:
    generator = np.random.default_rng(1)
    letters = "aeiou", "bcdfghklmnprstvw"
    words = [
        "".join(generator.choice(list(letters[(n + 1) % 2])) for n in range(length))
        for length in generator.integers(2, 10, 50_000)
    ]
    shares = 1 / np.arange(1, len(words) + 1)
    numbers = generator.choice(len(words), (len(originals), 12), p=shares / shares.sum())
    texts = [" ".join(words[number] for number in row) for row in numbers]
    kinds = generator.integers(0, 3, len(originals))
    for row in np.flatnonzero(originals != np.arange(len(originals))):
        text = texts[originals[row]]
        middle = len(text) // 2
        texts[row] = (
            f"{text.title()}!",
            f"{text} {words[kinds[row - 1]]}",
            f"{text[:middle]}x{text[middle + 1 :]}",
        )[kinds[row]]
    return texts


def make_hashes(originals: Int64Array) -> UInt8Array:
    generator = np.random.default_rng(1)
    hashes = generator.integers(0, 256, (len(originals), HASH_BYTES), np.uint8)
    copies = np.flatnonzero(originals != np.arange(len(originals)))
    patterns = different_bits_of_copies()
    chosen = patterns[generator.integers(0, len(patterns), len(copies))]
    hashes[copies] = hashes[originals[copies]] ^ chosen
    return hashes


def different_bits_of_copies() -> UInt8Array:
    """Return the bits in which hashes of copies of the example photographs differ [n, bytes]."""
    images = [on_white(open_picture(path)) for path in find_pictures([ROOT / "examples/photos"])]
    hashes = hash_pictures(images)
    return np.concatenate([hashes ^ hash_pictures(map(change, images)) for change in CHANGES])


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def crop(image: Image.Image, share: float) -> Image.Image:
    """Cut off a share of the width and of the height, half of it at each side."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


def group_texts(texts: list[str]) -> Int64Array:
    keys = np.array([text_key(text) for text in texts], np.uint64)
    return text_groups(keys, text_signatures(texts), SETTINGS.text_similarity)


def group_pictures(hashes: UInt8Array) -> Int64Array:
    return picture_groups(hashes, SETTINGS.picture_distance)


def group_with_datasketch(texts: list[str]) -> Int64Array:
    """Group texts by datasketch: each joins the group of its first similar text."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=SETTINGS.text_similarity, num_perm=COMPONENTS)
    groups = np.arange(len(texts))
    hashes: list[MinHash] = []
    for row, text in enumerate(texts):
        content = normal_form(text).encode()
        minhash = MinHash(num_perm=COMPONENTS)
        minhash.update_batch([content[start : start + 5] for start in range(len(content) - 4)])
        similar = [
            partner
            for partner in index.query(minhash)
            if hashes[partner].jaccard(minhash) >= SETTINGS.text_similarity
        ]
        groups[row] = min((groups[partner] for partner in similar), default=row)
        index.insert(row, minhash)
        hashes.append(minhash)
    return groups


METHODS: dict[str, Callable[..., Int64Array]] = {
    "texts, twotower": group_texts,
    "texts, datasketch": group_with_datasketch,
    "pictures, twotower": group_pictures,
}


def quality(groups: Int64Array, originals: Int64Array) -> tuple[float, float]:
    """Return precision, of the pairs of rows in a group, and recall, of the copies."""
    grouped = pairs_within(groups)
    right = pairs_within(groups * (len(groups) + 1) + originals)
    copies = np.flatnonzero(originals != np.arange(len(originals)))
    recall = float((groups[copies] == groups[originals[copies]]).mean())
    return (right / grouped if grouped else 1.0), recall


def pairs_within(labels: NDArray[np.int64]) -> int:
    counts = np.unique(labels, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
