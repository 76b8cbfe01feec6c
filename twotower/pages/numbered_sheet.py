"""A contact sheet as one picture: numbered thumbnails in a grid."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 240  # pixels, each side
GAP = 8  # pixels
_LABEL_SIZE = 26  # pixels of a digit
_PAPER, _INK, _LABEL = (246, 245, 242), (255, 255, 255), (28, 27, 25)


def draw_numbered_sheet(thumbnails: Sequence[bytes], columns: int = 5) -> Image.Image:
    """Draw thumbnails in rows, each with its number, from 1 on, in its upper left corner.

    Args:
        thumbnails: encoded pictures; an empty one leaves its cell empty.
        columns: of a full row.
    """
    columns = max(1, min(columns, len(thumbnails)))
    rows = max(1, math.ceil(len(thumbnails) / columns))
    size = columns * (CELL + GAP) + GAP, rows * (CELL + GAP) + GAP
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_LABEL_SIZE)
    for position, content in enumerate(thumbnails):
        row, column = divmod(position, columns)
        x, y = GAP + column * (CELL + GAP), GAP + row * (CELL + GAP)
        if content:
            with Image.open(io.BytesIO(content)) as picture:
                picture.thumbnail((CELL, CELL))
                corner = x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2
                sheet.paste(picture.convert("RGB"), corner)
        _draw_number(draw, font, x, y, str(position + 1))
    return sheet


def _draw_number(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    x: int,
    y: int,
    number: str,
) -> None:
    box = draw.textbbox((x + 8, y + 4), number, font=font)
    draw.rectangle((x, y, box[2] + 8, box[3] + 6), fill=_LABEL)
    draw.text((x + 8, y + 4), number, fill=_INK, font=font)
