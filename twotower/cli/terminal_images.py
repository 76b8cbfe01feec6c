"""Thumbnails in the terminal, by Kitty's protocol, iTerm's, or sixels."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from twotower.pages.thumbnails import thumbnail

if TYPE_CHECKING:
    from PIL import Image

HEIGHT = 120  # pixels
CHUNK = 4096  # most base64 characters in one of Kitty's escape sequences
SIXEL_COLOURS = 64


def thumbnail_printer(stream: TextIO) -> Callable[[Path], None] | None:
    """Return a function that prints a picture on this terminal; None if it shows only text."""
    encode = _protocol(os.environ) if stream.isatty() else None
    if encode is None:
        return None

    def print_thumbnail(path: Path) -> None:
        image = thumbnail(path, HEIGHT)
        if image is not None:
            print(encode(image), file=stream, flush=True)

    return print_thumbnail


def _protocol(environment: os._Environ[str]) -> Callable[[Image.Image], str] | None:
    """Choose a protocol by the environment variables that terminals set."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith("screen"):
        return None  # neither passes pictures on
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return kitty
    if program in ("iTerm.app", "WezTerm", "vscode"):
        return iterm
    if term.startswith(("foot", "mlterm", "yaft")) or "sixel" in term:
        return sixel
    return None


def kitty(image: Image.Image) -> str:
    """Encode for Kitty's graphics protocol: PNG in chunks of base64."""
    text = _base64(image, "PNG")
    chunks = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    sequences = []
    for i, chunk in enumerate(chunks):
        control = "a=T,f=100," if i == 0 else ""
        sequences.append(f"\x1b_G{control}m={int(i < len(chunks) - 1)};{chunk}\x1b\\")
    return "".join(sequences)


def iterm(image: Image.Image) -> str:
    """Encode as one of iTerm2's inline images."""
    return f"\x1b]1337;File=inline=1;height={image.height}px:{_base64(image, 'JPEG')}\a"


def sixel(image: Image.Image) -> str:
    """Encode as DEC sixels: bands of six rows, with a run of columns for each colour in a band."""
    import numpy as np

    reduced = image.quantize(SIXEL_COLOURS)
    palette = np.array(reduced.getpalette() or [], np.int64).reshape(-1, 3)
    pixels = np.asarray(reduced)  # [height, width]
    codes = [f'\x1bPq"1;1;{image.width};{image.height}']
    for number, levels in enumerate((palette * 100 // 255).tolist()):
        codes.append("#{};2;{};{};{}".format(number, *levels))
    for top in range(0, image.height, 6):
        band = pixels[top : top + 6]
        for colour in np.unique(band).tolist():
            bits = (band == colour).T @ (1 << np.arange(len(band)))  # [width]
            codes.append(f"#{colour}{_runs(bits.tolist())}$")
        codes.append("-")
    return "".join([*codes, "\x1b\\"])


def _runs(bits: list[int]) -> str:
    """Return sixel characters, with repetitions as `!count`."""
    runs, start = [], 0
    for end in range(1, len(bits) + 1):
        if end == len(bits) or bits[end] != bits[start]:
            count, character = end - start, chr(63 + bits[start])
            runs.append(character * count if count < 4 else f"!{count}{character}")
            start = end
    return "".join(runs)


def _base64(image: Image.Image, image_format: str) -> str:
    file = io.BytesIO()
    image.save(file, image_format)
    return base64.b64encode(file.getvalue()).decode()
