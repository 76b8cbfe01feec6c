"""Charts as SVG: reliability, few shots, confusion. Their colours are CSS classes of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from twotower.arrays import Float64Array
from twotower.pages.render import Html, escape_html

MAX_NAMED_CLASSES = 40  # a confusion matrix of more classes has no room for names


def reliability_chart(bins: Sequence[Mapping[str, Any]], side: int = 320) -> Html:
    """Draw accuracy over confidence; bars below the diagonal are overconfident answers.

    Args:
        bins: from `measure_reliability`.
    """
    x0, y0 = 44, 10
    largest = max(interval["n"] for interval in bins)
    elements = [_axes(x0, y0, side, "confidence", "accuracy")]
    for interval in bins:
        if not interval["n"]:
            continue
        x, width = x0 + side * interval["low"], side * (interval["high"] - interval["low"])
        height = side * interval["accuracy"]
        opacity = 0.25 + 0.75 * (interval["n"] / largest) ** 0.5
        elements.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y0 + side - height:.1f}" '
            f'width="{width - 2:.1f}" height="{max(height, 0.5):.1f}" opacity="{opacity:.2f}">'
            f"<title>{interval['n']} answers: confidence {interval['confidence']:.1%}, "
            f"accuracy {interval['accuracy']:.1%}</title></rect>"
        )
    elements.append(f'<line class="ideal" x1="{x0}" y1="{y0 + side}" x2="{x0 + side}" y2="{y0}"/>')
    return _svg(x0 + side + 16, y0 + side + 44, elements, "Reliability diagram")


def few_shot_chart(
    results: Mapping[str, Mapping[str, Any]], zero_shot: Mapping[str, Any], height: int = 260
) -> Html:
    """Draw accuracy, with intervals, over the number of labelled pictures of each class.

    Args:
        results: by number of shots, with "linear_probe" and "tip_adapter".
        zero_shot: with "top1".
    """
    x0, y0, width = 44, 10, 460
    shots = list(results)
    columns = [x0 + width * (i + 0.5) / len(shots) for i in range(len(shots))]

    def y(share: float) -> float:
        return y0 + height * (1 - share)

    elements = [_axes(x0, y0, height, "labelled pictures of each class", "top-1", width)]
    elements += [
        f'<text class="tick" x="{x}" y="{y0 + height + 16}" text-anchor="middle">{k}</text>'
        for x, k in zip(columns, shots, strict=True)
    ]
    level = y(zero_shot["top1"])
    elements.append(
        f'<line class="ideal" x1="{x0}" y1="{level}" x2="{x0 + width}" y2="{level}"/>'
        f'<text class="tick" x="{x0 + width}" y="{level - 6}" text-anchor="end">'
        f"zero-shot {zero_shot['top1']:.1%}</text>"
    )
    for series, key in enumerate(("linear_probe", "tip_adapter")):
        values = [results[k][key] for k in shots]
        shifted = [x + 6 * series - 3 for x in columns]
        elements.append(_few_shot_series(series, key.replace("_", " "), shifted, values, y))
    legend = "".join(
        f'<span><i class="s{series}"></i>{name}</span>'
        for series, name in enumerate(("linear probe", "Tip-Adapter"))
    )
    chart = _svg(x0 + width + 16, y0 + height + 44, elements, "Few shots")
    return Html(f'{chart}<p class="legend">{legend}</p>')


def _few_shot_series(
    series: int,
    name: str,
    columns: Sequence[float],
    values: Sequence[Mapping[str, Any]],
    y: Callable[[float], float],
) -> str:
    line = " ".join(
        f"{x:.1f},{y(value['top1']):.1f}" for x, value in zip(columns, values, strict=True)
    )
    elements = [f'<polyline class="line s{series}" points="{line}"/>']
    for x, value in zip(columns, values, strict=True):
        low, high = (y(end) for end in value["ci95"]["top1"])
        elements.append(
            f'<line class="line s{series}" x1="{x}" y1="{low:.1f}" x2="{x}" y2="{high:.1f}"/>'
            f'<circle class="dot s{series}" cx="{x}" cy="{y(value["top1"]):.1f}" r="4">'
            f"<title>{name}: {value['top1']:.1%}</title></circle>"
        )
    return "".join(elements)


def confusion_chart(
    per_class: Sequence[Mapping[str, Any]], confusions: Sequence[Sequence[Any]]
) -> Html:
    """Draw a matrix with a row for each correct class and a column for each predicted class.

    Args:
        per_class: with "class", "n" and "accuracy".
        confusions: [correct class, predicted class, count] of wrong answers.
    """
    names = [row["class"] for row in per_class]
    names += sorted({predicted for _, predicted, _ in confusions} - set(names))
    numbers = {name: number for number, name in enumerate(names)}
    shares = np.zeros((len(names), len(names)))
    for row in per_class:
        shares[numbers[row["class"]], numbers[row["class"]]] = row["accuracy"]
    counts = {row["class"]: row["n"] for row in per_class}
    for correct, predicted, count in confusions:
        shares[numbers[correct], numbers[predicted]] = count / counts[correct]
    if len(names) > MAX_NAMED_CLASSES:
        return _confusion_image(shares)
    return _confusion_cells(names, shares)


def _confusion_cells(names: list[str], shares: Float64Array) -> Html:
    size = 46 if len(names) <= 12 else 34 if len(names) <= 20 else 20
    x0 = 12 + 6.6 * max(map(len, names))
    y0 = x0 * 0.72 + 8
    elements = []
    for row, name in enumerate(names):
        y = y0 + row * size
        elements.append(
            f'<text class="tick" x="{x0 - 8}" y="{y + size / 2 + 4}" text-anchor="end">'
            f"{escape_html(name)}</text>"
            f'<text class="tick" transform="translate({x0 + row * size + size / 2 + 4} '
            f'{y0 - 8}) rotate(-45)">{escape_html(name)}</text>'
        )
        for column, share in enumerate(shares[row]):
            tooltip = f"{escape_html(name)} taken for {escape_html(names[column])}: {share:.1%}"
            kind = "hit" if row == column else "miss"
            elements.append(_confusion_cell(x0 + column * size, y, size, share, kind, tooltip))
    side = len(names) * size
    return _svg(x0 + side + x0 * 0.7, y0 + side + 8, elements, "Confusion")


def _confusion_cell(x: float, y: float, size: int, share: float, kind: str, tooltip: str) -> str:
    box = f'x="{x}" y="{y}" width="{size - 2}" height="{size - 2}" rx="3"'
    cell = (
        f'<rect class="cell" {box}/><rect class="{kind}" {box} '
        f'opacity="{share**0.7:.3f}"><title>{tooltip}</title></rect>'
    )
    if share < 0.005 or size <= 30:
        return cell
    strong = " strong" if share > 0.4 else ""
    return cell + (
        f'<text class="share{strong}" x="{x + size / 2 - 1}" y="{y + size / 2 + 3}" '
        f'text-anchor="middle">{100 * share:.0f}</text>'
    )


def _confusion_image(shares: Float64Array) -> Html:
    """Draw the matrix with a pixel for each cell, enlarged by a whole factor."""
    levels = (255 * (1 - np.clip(shares, 0, 1) ** 0.5)).astype(np.uint8)
    scale = max(1, 720 // len(levels))
    image = PIL.Image.fromarray(levels).resize((scale * len(levels),) * 2, PIL.Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    code = base64.b64encode(file.getvalue()).decode()
    return Html(
        f'<img class="matrix" alt="Confusion of all classes" src="data:image/png;base64,{code}">'
    )


def _axes(
    x0: int, y0: int, height: int, x_title: str, y_title: str, width: int | None = None
) -> str:
    """Draw a frame with a line at every fifth; without a `width`, the x axis is in percent too."""
    full_width = width or height
    elements = []
    for fifth in range(6):
        y = y0 + height * (1 - fifth / 5)
        elements.append(
            f'<line class="grid" x1="{x0}" y1="{y:.1f}" x2="{x0 + full_width}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{20 * fifth}</text>"
        )
        if width is None:
            elements.append(
                f'<text class="tick" x="{x0 + full_width * fifth / 5}" y="{y0 + height + 16}" '
                f'text-anchor="middle">{20 * fifth}</text>'
            )
    elements.append(
        f'<text class="axis" x="{x0 + full_width / 2}" y="{y0 + height + 36}" '
        f'text-anchor="middle">{x_title}{" (%)" if width is None else ""}</text>'
        f'<text class="axis" transform="translate(10 {y0 + height / 2}) rotate(-90)" '
        f'text-anchor="middle">{y_title} (%)</text>'
    )
    return "".join(elements)


def _svg(width: float, height: float, elements: Sequence[str], label: str) -> Html:
    return Html(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{label}">{"".join(elements)}</svg>'
    )
