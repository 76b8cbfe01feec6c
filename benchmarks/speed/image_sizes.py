"""Compare the speed of a vision transformer at smaller image sizes, in float32 and in int8.

    python benchmarks/speed/image_sizes.py [MODEL]

MODEL (base) is converted with `image_size`, and encodes the example photographs, decoded before,
in batches of 16, all sizes and engines in turn. `times` is the median over the rounds of the ratio
to 224 pixels in float32; what smaller pictures lose: quality/fewer_tokens.py. Writes
results/image_sizes.csv.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import PIL.Image

import twotower
from benchmarks.table import ROOT, write_results
from twotower.encode.encoder import Encoder
from twotower.encode.load import find_model

SIZES = (224, 192, 160)
ENGINES = ("onnxruntime", "onnxruntime-int8")
ROUNDS, BATCH = 7, 16
COLUMNS = ("model", "image_size", "engine", "times", "slowest", "fastest")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "base"
    paths = sorted((ROOT / "examples" / "photos").glob("*.jpg"))[:BATCH]
    pictures = [PIL.Image.open(path).convert("RGB").resize((256, 256)) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        models: dict[tuple[int, str], Encoder] = {}
        for size in SIZES:
            directory = Path(folder) / str(size)
            twotower.convert(
                find_model(name), directory, image_size=None if size == SIZES[0] else size
            )
            models |= {(size, engine): Encoder(directory, engine) for engine in ENGINES}
        for model in models.values():
            model.encode_image(pictures)
        rounds = [{key: seconds(models[key], pictures) for key in models} for _ in range(ROUNDS)]
    rows = []
    for key in models:
        ratios = [times[SIZES[0], ENGINES[0]] / times[key] for times in rounds]
        median = f"{statistics.median(ratios):.2f}"
        rows.append((name, *key, median, f"{min(ratios):.2f}", f"{max(ratios):.2f}"))
    write_results("image_sizes.csv", COLUMNS, rows)


def seconds(model: Encoder, pictures: list[PIL.Image.Image]) -> float:
    start = time.perf_counter()
    model.encode_image(pictures)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
