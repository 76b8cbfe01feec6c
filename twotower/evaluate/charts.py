"""Charts as SVG text: reliability, confusion, few shots. Colours are variables of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import PIL.Image

LABELLED_CLASSES = 40  # up to so many, a confusion picture has room for names


def reliability(bins: Sequence[Mapping[str, Any]], side: int = 320) -> str:
    """Accuracy over confidence: bars below the diagonal are answers surer than they are right."""
    left, top = 44, 10
    most = max(one["n"] for one in bins)
    parts = [_axes(left, top, side, "confidence", "accuracy")]
    for one in bins:
        if not one["n"]:
            continue
        x, width = left + side * one["low"], side * (one["high"] - one["low"])
        height = side * one["accuracy"]
        strength = 0.25 + 0.75 * (one["n"] / most) ** 0.5
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{top + side - height:.1f}" '
            f'width="{width - 2:.1f}" height="{max(height, 0.5):.1f}" opacity="{strength:.2f}">'
            f"<title>{one['n']} answers: confidence {one['confidence']:.1%}, "
            f"right {one['accuracy']:.1%}</title></rect>"
        )
    parts.append(
        f'<line class="ideal" x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}"/>'
    )
    return _svg(left + side + 16, top + side + 44, parts, "Reliability diagram")


def few_shot(
    results: Mapping[str, Mapping[str, Any]], zero_shot: Mapping[str, Any], height: int = 260
) -> str:
    """Accuracy over the number of labelled pictures of each class, with intervals."""
    left, top, width = 44, 10, 460
    shots = list(results)
    places = [left + width * (i + 0.5) / len(shots) for i in range(len(shots))]

    def y(share: float) -> float:
        return top + height * (1 - share)

    parts = [_axes(left, top, height, "labelled pictures of each class", "top-1", width)]
    parts += [
        f'<text class="tick" x="{x}" y="{top + height + 16}" text-anchor="middle">{k}</text>'
        for x, k in zip(places, shots, strict=True)
    ]
    level = y(zero_shot["top1"])
    parts.append(f'<line class="ideal" x1="{left}" y1="{level}" x2="{left + width}" y2="{level}"/>')
    parts.append(
        f'<text class="tick" x="{left + width}" y="{level - 6}" '
        f'text-anchor="end">'
        f"zero-shot {zero_shot['top1']:.1%}</text>"
    )
    for series, name in enumerate(("linear_probe", "tip_adapter")):
        values = [results[k][name] for k in shots]
        dots = [(x + 6 * series - 3, y(one["top1"])) for x, one in zip(places, values, strict=True)]
        line = " ".join(f"{x:.1f},{at:.1f}" for x, at in dots)
        parts.append(f'<polyline class="line s{series}" points="{line}"/>')
        for (x, at), one in zip(dots, values, strict=True):
            low, high = (y(end) for end in one["ci95"]["top1"])
            tip = f"{name.replace('_', ' ')}: {one['top1']:.1%}"
            parts.append(
                f'<line class="line s{series}" x1="{x}" y1="{low:.1f}" x2="{x}" y2="{high:.1f}"/>'
                f'<circle class="dot s{series}" cx="{x}" cy="{at:.1f}" r="4">'
                f"<title>{tip}</title></circle>"
            )
    legend = "".join(
        f'<span><i class="s{series}"></i>{name}</span>'
        for series, name in enumerate(("linear probe", "Tip-Adapter"))
    )
    chart = _svg(left + width + 16, top + height + 44, parts, "Few shots")
    return f'{chart}<p class="legend">{legend}</p>'


def confusion(per_class: Sequence[Mapping[str, Any]], cells: Sequence[Sequence[Any]]) -> str:
    """A row for each right class, a column for each given one; dark is often.

    Args:
        per_class: with "class", "n" and "accuracy". cells: [right, given, how often], wrong ones.
    """
    names = [one["class"] for one in per_class]
    names += sorted({given for _, given, _ in cells} - set(names))
    place = {name: number for number, name in enumerate(names)}
    shares = np.zeros((len(names), len(names)))
    for one in per_class:
        shares[place[one["class"]], place[one["class"]]] = one["accuracy"]
    counts = {one["class"]: one["n"] for one in per_class}
    for right, given, often in cells:
        shares[place[right], place[given]] = often / counts[right]
    if len(names) > LABELLED_CLASSES:
        return _confusion_pixels(shares)
    return _confusion_cells(names, shares)


def _confusion_cells(names: list[str], shares: Any) -> str:
    size = 46 if len(names) <= 12 else 34 if len(names) <= 20 else 20
    left = 12 + 6.6 * max(map(len, names))
    top = left * 0.72 + 8
    parts = []
    for row, name in enumerate(names):
        y = top + row * size
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + size / 2 + 4}" text-anchor="end">'
            f"{escape(name)}</text>"
            f'<text class="tick" transform="translate({left + row * size + size / 2 + 4} '
            f'{top - 8}) rotate(-45)">{escape(name)}</text>'
        )
        for column, share in enumerate(shares[row]):
            x = left + column * size
            tip = f"{escape(name)} taken for {escape(names[column])}: {share:.1%}"
            kind = "hit" if row == column else "miss"
            box = f'x="{x}" y="{y}" width="{size - 2}" height="{size - 2}" rx="3"'
            parts.append(
                f'<rect class="cell" {box}/><rect class="{kind}" {box} '
                f'opacity="{share**0.7:.3f}"><title>{tip}</title></rect>'
            )
            if share >= 0.005 and size > 30:
                strong = " strong" if share > 0.4 else ""
                parts.append(
                    f'<text class="share{strong}" x="{x + size / 2 - 1}" y="{y + size / 2 + 3}" '
                    f'text-anchor="middle">{100 * share:.0f}</text>'
                )
    side = len(names) * size
    return _svg(left + side + left * 0.7, top + side + 8, parts, "Confusion")


def _confusion_pixels(shares: Any) -> str:
    """Too many for names: a pixel picture in file order, enlarged by whole pixels."""
    levels = (255 * (1 - np.clip(shares, 0, 1) ** 0.5)).astype(np.uint8)
    scale = max(1, 720 // len(levels))
    image = PIL.Image.fromarray(levels).resize((scale * len(levels),) * 2, PIL.Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    code = base64.b64encode(file.getvalue()).decode()
    return f'<img class="matrix" alt="Confusion of all classes" src="data:image/png;base64,{code}">'


def _axes(left: int, top: int, height: int, across: str, up: str, width: int | None = None) -> str:
    """A frame with lines at every fifth; across is only numbered where it is a share too."""
    wide = width or height
    parts = []
    for fifth in range(6):
        y = top + height * (1 - fifth / 5)
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + wide}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{20 * fifth}</text>"
        )
        if width is None:
            parts.append(
                f'<text class="tick" x="{left + wide * fifth / 5}" y="{top + height + 16}" '
                f'text-anchor="middle">{20 * fifth}</text>'
            )
    parts.append(
        f'<text class="axis" x="{left + wide / 2}" y="{top + height + 36}" text-anchor="middle">'
        f"{across}{' (%)' if width is None else ''}</text>"
        f'<text class="axis" transform="translate(10 {top + height / 2}) rotate(-90)" '
        f'text-anchor="middle">{up} (%)</text>'
    )
    return "".join(parts)


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )
