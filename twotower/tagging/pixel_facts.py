"""Measurements of pixels: sharpness, colours, edges, lettering."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.arrays import BoolArray, Float64Array, UInt8Array

MAX_SIDE = 512  # pixels along the longer side at which pictures are measured
BLOCK_SIDE = 32  # pixels; the sharpest blocks decide, since a background may be out of focus
FACT_COUNT = 28  # numbers that `measure` returns

Grey: TypeAlias = NDArray[np.int16]
"""Brightness or its differences [height, width]; signed, so that differences do not wrap."""


def measure(image: Image.Image) -> Float64Array:
    """Measure a picture.

    Returns:
        The facts [FACT_COUNT], of which the first is the sharpness (the standard deviation of the
        Laplacian in the sharpest twentieth of the blocks) and the second the brightness (the 99th
        percentile of the grey values).
    """
    image = image.convert("RGB")
    scale = min(1.0, MAX_SIDE / max(image.size))
    size = max(3, round(image.width * scale)), max(3, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    pixels, grey = np.asarray(image), np.asarray(image.convert("L"), np.int16)
    across, down = np.abs(np.diff(grey))[1:], np.abs(np.diff(grey, axis=0))[:, 1:]
    light = pixels.min(axis=2) >= 215
    facts = [
        *(_sharpness(grey), float(np.quantile(grey, 0.99))),
        *_colours(pixels, light),
        *_edges(across, down, light),
        *_paper(light),
        *_shape(image.width / image.height),
        *_lettering(pixels),
    ]
    return np.array(facts, np.float64)


def _sharpness(grey: Grey) -> float:
    pixels = grey.astype(np.float32)
    laplacian = (
        pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    ) - 4 * pixels[1:-1, 1:-1]
    deviations = [
        laplacian[y : y + BLOCK_SIDE, x : x + BLOCK_SIDE].std()
        for y in range(0, laplacian.shape[0], BLOCK_SIDE)
        for x in range(0, laplacian.shape[1], BLOCK_SIDE)
    ]
    return float(np.quantile(deviations, 0.95))


def _colours(pixels: UInt8Array, light: BoolArray) -> list[float]:
    """Return the shares of the commonest colour, of the eight commonest, of light, dark and grey
    pixels.
    """
    coarse = (pixels >> 4).astype(np.int32)
    counts = np.bincount((coarse[..., 0] << 8 | coarse[..., 1] << 4 | coarse[..., 2]).ravel())
    shares = np.sort(counts)[::-1][:8] / light.size
    least, most = pixels.min(axis=2), pixels.max(axis=2)
    return [
        *(float(shares[0]), float(shares.sum())),
        *(float(mask.mean()) for mask in (light, most <= 45, most - least <= 16)),
    ]


def _edges(across: Grey, down: Grey, light: BoolArray) -> list[float]:
    """Describe the steps of brightness between neighbouring pixels.

    Returns:
        The shares of no, small and large steps; of the large ones, the share that runs straight
        across or down; the share of flat light pixels; the numbers of horizontal and vertical
        lines; how unevenly large steps are spread over rows and columns; and how often rows with
        many of them alternate with rows with few.
    """
    height, width = across.shape
    steps = np.maximum(across, down)
    flat, ink = steps <= 2, steps > 48
    straight = float((np.minimum(across, down)[ink] <= 8).mean()) if ink.any() else 0.5
    by_row, by_column = ink.mean(axis=1), ink.mean(axis=0)
    turns = np.count_nonzero(np.diff(by_row > by_row.mean()))
    return [
        *(float(flat.mean()), float(((steps > 2) & (steps <= 12)).mean()), float(ink.mean())),
        *(straight, float((light[1:, 1:] & flat).mean())),
        min(20 * np.count_nonzero((down > 12).mean(axis=1) > 0.5) / height, 3.0),
        min(20 * np.count_nonzero((across > 12).mean(axis=0) > 0.5) / width, 3.0),
        *(float(shares.std() / (shares.mean() + 0.01)) for shares in (by_row, by_column)),
        min(10 * turns / height, 3.0),
    ]


def _paper(light: BoolArray) -> list[float]:
    """Return how much lighter the middle is than both sides, the share of light rows, and how much
    lighter the top and the bottom are than the rows between.
    """
    by_row, by_column = light.mean(axis=1), light.mean(axis=0)
    third, sixth = len(by_column) // 3, max(1, len(by_column) // 6)
    sides = (by_column[:sixth].mean() + by_column[-sixth:].mean()) / 2
    bar = max(1, len(by_row) // 7)
    between = by_row[2 * bar : -2 * bar].mean() if len(by_row) > 4 * bar else by_row.mean()
    return [
        float(by_column[third : len(by_column) - third].mean() - sides),
        float((by_row > 0.6).mean()),
        float(by_row[:bar].mean() - between),
        float(by_row[-bar:].mean() - between),
    ]


def _shape(ratio: float) -> list[float]:
    """Return the logarithm of width over height, and its closeness to that of a page, a telephone
    and a screen.
    """
    shape = float(np.log(ratio))
    formats = ((shape, -0.33, 0.12), (shape, -0.72, 0.15), (abs(shape), 0.47, 0.15))
    return [
        shape,
        *(float(np.exp(-(((value - mean) / width) ** 2))) for value, mean, width in formats),
    ]


def _lettering(pixels: UInt8Array) -> list[float]:
    """Return the logarithm of the share of white pixels within three pixels of black ones: in the
    top quarter, in the bottom quarter, and between.
    """
    white, black = pixels.min(axis=2) >= 225, pixels.max(axis=2) <= 50
    near = black.copy()
    for distance in (1, 2, 3):
        near[:, distance:] |= black[:, :-distance]
        near[:, :-distance] |= black[:, distance:]
        near[distance:] |= black[:-distance]
        near[:-distance] |= black[distance:]
    edged, quarter = white & near, max(1, len(white) // 4)
    bands = edged[:quarter], edged[-quarter:], edged[quarter:-quarter]
    return [float(np.log((band.mean() if band.size else 0) + 1e-3)) for band in bands]
