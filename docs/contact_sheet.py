"""Draw docs/classify.webp: example photographs with the labels of the bundled model.

python docs/contact_sheet.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

import twotower

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"
# Every fourth photograph in alphabetical order, not a selection of the best results.
STEP, COLUMNS, WIDTH, HEIGHT, TEXT = 4, 4, 280, 190, 66
BAR, INK, PALE = (60, 120, 216), (30, 30, 30), (226, 232, 240)


def main() -> None:
    pictures = sorted(path for path in PHOTOS.iterdir() if path.suffix not in (".csv", ".md"))
    pictures = pictures[::STEP]
    pictures = pictures[: len(pictures) // COLUMNS * COLUMNS]
    labels = (ROOT / "examples" / "labels.txt").read_text(encoding="utf-8").splitlines()
    rows = len(pictures) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * WIDTH, rows * (HEIGHT + TEXT)), "white")
    for index, answer in enumerate(twotower.classify(pictures, labels, top=3)):
        x, y = index % COLUMNS * WIDTH, index // COLUMNS * (HEIGHT + TEXT)
        with Image.open(pictures[index]) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
        fitted = ImageOps.fit(upright, (WIDTH - 12, HEIGHT - 12))
        sheet.paste(fitted, (x + 6, y + 6), fitted)
        draw_labels(ImageDraw.Draw(sheet), x + 6, y + HEIGHT - 2, answer.labels)
    sheet.save(Path(__file__).with_name("classify.webp"), quality=82, method=6)


def draw_labels(draw: ImageDraw.ImageDraw, x: int, y: int, labels: list[twotower.Label]) -> None:
    """Draw a bar for each label, with a length proportional to its probability."""
    font = ImageFont.load_default(15)
    for row, label in enumerate(labels):
        row_y = y + row * 20
        width = round((WIDTH - 12) * label.probability)
        draw.rectangle((x, row_y, x + WIDTH - 13, row_y + 17), fill=PALE)
        draw.rectangle((x, row_y, x + max(width, 2), row_y + 17), fill=BAR)
        text = f"{label.label} {label.probability:.0%}"
        draw.text((x + 5, row_y), text, fill="white" if width > 150 else INK, font=font)


if __name__ == "__main__":
    main()
