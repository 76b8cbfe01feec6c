"""Make `preprocess/`: results of OpenAI's transform, run by torchvision, on difficult pictures.

Needs torch and torchvision 0.28.0. Beside a CPU torch, that torchvision imports only after two
operator schemas are defined, as in `main`; the transforms use neither operator.
`tests/inputs/test_preprocess.py` imports the pictures and the cases.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "preprocess"

# Widths and heights: squares, both directions, every remainder of the margin by 4, one pixel,
# enlarging by a lot and by a little, long strips.
SIZES = [
    *((224, 224), (225, 224), (226, 224), (227, 224), (228, 224), (224, 231), (224, 235)),
    *((1, 1), (2, 1), (1, 7), (3, 5), (31, 33), (99, 100), (223, 223), (223, 225), (300, 1)),
    *((500, 375), (375, 500), (640, 427), (427, 640), (333, 250), (1023, 767), (448, 449)),
    *((1000, 331), (7, 160), (67, 1024)),
]
MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "P with a transparent colour", "P with tRNS")

# (mode, width, height, image_size)
CASES = [
    *(("RGB", width, height, 224) for width, height in SIZES),
    *(("RGB", width, height, 336) for width, height in ((500, 375), (337, 339), (20, 30))),
    *((mode, 331, 250, 224) for mode in MODES),
    *((mode, 19, 37, 32) for mode in MODES),
]
# Small enough to be stored in full.
KEPT = [("RGB", 50, 37, 32), ("RGB", 7, 9, 32), ("RGBA", 50, 37, 32)]


def picture(mode: str, width: int, height: int) -> Image.Image:
    """Draw noise over a slope with integer arithmetic, which is equal on every machine."""
    bands = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3}.get(mode, 1)
    y, x, band = np.indices((height, width, bands), dtype=np.uint64)
    noise = ((x * 73856093) ^ (y * 19349663) ^ (band * 83492791 + 12345)) * 2654435761 >> 13
    levels = ((noise % 160) + (x * 2 + y + band * 30) % 96).astype(np.uint8)
    if mode == "1":
        return Image.fromarray(levels[..., 0]).point(lambda level: level // 128 * 255, "1")
    if mode.startswith("P"):
        image = Image.fromarray(levels[..., 0] % 64).convert("L")
        image.putpalette([(entry * 37 + entry // 3) % 256 for entry in range(3 * 64)])
        if mode == "P with a transparent colour":
            image.info["transparency"] = 5
        if mode == "P with tRNS":
            image.info["transparency"] = bytes(range(0, 256, 4))
        return image
    size = (width, height)
    return Image.frombytes(mode, size, levels.tobytes())


def ramp() -> Image.Image:
    """Draw all 256 levels in every channel, 32 x 32."""
    levels = np.arange(32 * 32, dtype=np.uint32) % 256
    return Image.fromarray(np.stack([levels] * 3, -1).astype(np.uint8).reshape(32, 32, 3))


def main() -> None:
    import PIL
    import torch

    schemas = torch.library.Library("torchvision", "DEF")
    schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    import torchvision
    from torchvision.transforms import (
        CenterCrop,
        Compose,
        InterpolationMode,
        Normalize,
        Resize,
        ToTensor,
    )

    normalise = Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

    def levels_and_values(image: Image.Image, size: int) -> tuple[np.ndarray, np.ndarray]:
        crop = Compose([Resize(size, interpolation=InterpolationMode.BICUBIC), CenterCrop(size)])
        rgb = crop(image).convert("RGB")
        return np.asarray(rgb), normalise(ToTensor()(rgb)).numpy()

    cases = []
    for mode, width, height, size in CASES:
        levels, values = levels_and_values(picture(mode, width, height), size)
        cases.append(
            {
                "case": [mode, width, height, size],
                "levels": hashlib.sha256(levels.tobytes()).hexdigest(),
                "values": hashlib.sha256(values.astype("<f4").tobytes()).hexdigest(),
            }
        )
    versions = {
        "torch": torch.__version__.split("+")[0],
        "torchvision": torchvision.__version__.split("+")[0],
        "pillow": PIL.__version__,
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "openai.json").write_text(
        json.dumps({"versions": versions, "cases": cases}, indent=1) + "\n"
    )
    kept = {"ramp": levels_and_values(ramp(), 32)[1]}
    for index, (mode, width, height, size) in enumerate(KEPT):
        levels, values = levels_and_values(picture(mode, width, height), size)
        kept |= {f"levels{index}": levels, f"values{index}": values}
    np.savez_compressed(FOLDER / "openai.npz", **kept)


if __name__ == "__main__":
    main()
