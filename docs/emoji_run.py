"""Make the pictures of the README from a run of `twotower train emoji`: curves and confusions.

    twotower train emoji --run runs/emoji
    python docs/emoji_run.py runs/emoji

Writes docs/emoji-curves.webp and docs/emoji-confusions.webp, each under 150 KB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDTH, MAX_BYTES = 1100, 150_000


def main() -> None:
    run = Path(sys.argv[1])
    for name in ("curves", "confusions"):
        shrink(run / f"{name}.png", HERE / f"emoji-{name}.webp")


def shrink(source: Path, destination: Path) -> None:
    with Image.open(source) as image:
        picture = image.convert("RGB")
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    picture.save(destination, quality=80, method=6)
    if destination.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{destination}: larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    main()
