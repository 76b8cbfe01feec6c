"""A result as one self-contained page: tables, charts, mistakes and the configuration."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import PIL.Image

from twotower.errors import PictureError
from twotower.evaluate import charts
from twotower.evaluate.results import (
    Measurement,
    format_count,
    measure_title,
    measurements,
    subset_warning,
    summarize_set,
)
from twotower.files import atomic_write
from twotower.inputs.pictures import Picture, open_picture
from twotower.pages.render import Html, escape_html, render

FindPicture: TypeAlias = Callable[[str], Picture]
Row: TypeAlias = Mapping[str, Any]

TEMPLATE = Path(__file__).parent / "report.html"
TASKS = {
    "zero-shot": "Zero-shot classification",
    "retrieval": "Retrieval",
    "probe": "Linear probe and few shots",
    "robustness": "Robustness",
}
CARDS = ("top1", "top5", "mean_per_class", "map", "ece")
WORST_CLASSES = 15
THUMBNAIL = 240  # pixels of a side


def write_report(result: Row, directory: Path, find_picture: FindPicture) -> Path:
    """Write `index.html` into a directory, which is created if necessary.

    Args:
        result: of any evaluation.
        find_picture: key of a picture -> picture, for thumbnails.

    Returns:
        The path of the page.
    """
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "index.html"
    model = result["configuration"]["model"]
    values = {
        "title": f"{model['name']} on {result['set']['title']}",
        "task": TASKS[result["task"]],
        "subtitle": Html(f"{escape_html(summarize_set(result))}. Model {_fingerprint(model)}."),
        "warning": _warning(result),
        "body": Html("\n".join(_sections(result, find_picture))),
    }
    text = render(TEMPLATE.read_text(encoding="utf-8"), values)
    with atomic_write(page) as file:
        file.write(text)
    return page


def _fingerprint(model: Row) -> Html:
    fingerprint = model.get("fingerprint")
    if not fingerprint:
        return Html("without a fingerprint")
    return Html(f"fingerprint <code>{escape_html(fingerprint[:12])}</code>")


def _warning(result: Row) -> Html:
    sentences = []
    if warning := subset_warning(result):
        sentences.append(f"{warning[0].upper()}{warning[1:]}.")
    if result["unreadable"]:
        count = format_count(len(result["unreadable"]))
        sentences.append(f"{count} pictures could not be read (see below).")
    return Html(f'<p class="warn">{escape_html(" ".join(sentences))}</p>' if sentences else "")


# --- sections ------------------------------------------------------------------------------------


def _sections(result: Row, find_picture: FindPicture) -> Iterator[Html]:
    """Yield the sections that a result has."""
    rows = list(measurements(result))
    yield _cards([row for row in rows if row.measure in CARDS] or rows)
    if result["published"]:
        yield _published(result["published"])
    if result.get("few_shot"):
        yield _few_shot(result)
    if "corruptions" in result:
        yield _corruptions(result)
    if "shift" in result:
        yield _shift(result["shift"])
    if result.get("confusion"):
        yield _confusion(result)
    if "per_class" in result:
        yield _per_class(result["per_class"])
    if "reliability" in result:
        yield _reliability(result["reliability"])
    if result["mistakes"]:
        show = _retrieval_mistakes if result["task"] == "retrieval" else _wrong_answers
        yield show(result["mistakes"], find_picture)
    yield _measures(rows)
    if result["unreadable"]:
        lines = "".join(f"<li>{escape_html(line)}</li>" for line in result["unreadable"])
        yield _section("Unreadable pictures", "These were left out.", f"<ul>{lines}</ul>")
    yield _configuration(result["configuration"])


def _section(heading: str, text: str, content: str) -> Html:
    return Html(f"<section><h2>{heading}</h2><p>{text}</p>{content}</section>")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Return a table of cells that are HTML; a column title with a leading `#` is for numbers."""
    classes = [' class="num"' if title.startswith("#") else "" for title in columns]
    titles = [title.removeprefix("#") for title in columns]
    head = "".join(f"<th{c}>{title}</th>" for c, title in zip(classes, titles, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{c}>{cell}</td>' for c, cell in zip(classes, row, strict=True))}</tr>"
        for row in rows
    )
    return Html(f"<table><tr>{head}</tr>{body}</table>")


def _bar(value: float, low: float, high: float) -> str:
    """Draw an interval, and the value in it, on a scale from 0 to 1."""
    low, high, value = (min(max(share, 0.0), 1.0) for share in (low, high, value))
    return (
        f'<div class="track"><i style="left:{low:.2%};width:{high - low:.2%}"></i>'
        f'<u style="left:{value:.2%}"></u></div>'
    )


def _cards(rows: Sequence[Measurement]) -> Html:
    cards = "".join(
        f'<div class="card"><span>{escape_html(row.title)}</span><b>{row.value:.1%}</b>'
        f"<span>{row.low:.1%} to {row.high:.1%}</span></div>"
        for row in rows
    )
    return Html(f'<div class="cards n{len(rows)}">{cards}</div>')


def _measures(rows: Sequence[Measurement]) -> Html:
    cells = (
        (
            escape_html(row.title),
            f"{row.value:.2%}",
            f"{row.low:.2%} to {row.high:.2%}",
            format_count(row.n),
            _bar(row.value, row.low, row.high),
        )
        for row in rows
    )
    table = _table(("measure", "#value", "#interval", "#n", ""), cells)
    text = "Shares with 95 % intervals, by bootstrap over pictures."
    return _section("All measures", text, f'<div class="wide">{table}</div>')


def _published(rows: Sequence[Row]) -> Html:
    cells = (
        (
            escape_html(row["model"]),
            escape_html(measure_title(row["measure"].split("."))),
            f"{row['published']:.2%}",
            f"{row['here']:.2%}",
            "" if row["whole_set"] else "published for the whole set: not comparable",
        )
        for row in rows
    )
    text = f"From {escape_html(rows[0]['source'])}. The model is recognised by its name alone."
    table = _table(("model", "measure", "#published", "#measured", ""), cells)
    return _section("Published figures", text, table)


def _few_shot(result: Row) -> Html:
    return _section(
        "Few labelled pictures",
        "Settings are chosen on a validation set, not on the tested pictures. Each point is the "
        "mean of three draws, its line the 95 % interval.",
        charts.few_shot_chart(result["few_shot"], result["zero_shot"]),
    )


def _corruptions(result: Row) -> Html:
    clean = result["top1"]
    kinds = result["corruptions"]
    severities = list(next(iter(kinds.values())))
    rows = []
    for kind, by_severity in kinds.items():
        cells = "".join(_heat_cell(value["top1"], clean) for value in by_severity.values())
        rows.append(f"<tr><td>{kind.replace('_', ' ')}</td>{cells}</tr>")
    head = "".join(f'<th style="text-align:center">{severity}</th>' for severity in severities)
    table = f'<table class="heat"><tr><th>severity</th>{head}</tr>{"".join(rows)}</table>'
    return _section(
        "Corrupted pictures",
        f"Top-1 on the unchanged pictures: {clean:.1%}; mean over the table: "
        f"{result['mean_corrupted']['top1']:.1%}. Darker cells keep more of it.",
        table,
    )


def _heat_cell(top1: float, clean: float) -> str:
    strength = 55 * min(1, top1 / max(clean, 1e-9))
    return (
        f'<td><span style="background:color-mix(in srgb, var(--hit) {strength:.0f}%, transparent)">'
        f"{top1:.1%}</span></td>"
    )


def _shift(shift: Mapping[str, Row]) -> Html:
    rows = (
        (
            escape_html(name),
            format_count(row["classes"]),
            f"{row['first_set']['top1']:.1%}",
            f"{row['top1']:.1%}",
            f"{100 * row['drop']:+.1f} ({100 * row['ci95']['drop'][0]:+.1f} to "
            f"{100 * row['ci95']['drop'][1]:+.1f})",
        )
        for name, row in shift.items()
    )
    columns = ("set", "#shared classes", "#first set", "#this set", "#points lost")
    return _section(
        "Other sets", "Top-1 over the classes that both sets have.", _table(columns, rows)
    )


def _confusion(result: Row) -> Html:
    chart = charts.confusion_chart(result["per_class"], result["confusion"])
    rows = (
        (escape_html(correct), escape_html(predicted), format_count(count))
        for correct, predicted, count in result["confusion"][:10]
    )
    table = _table(("correct", "predicted", "#times"), rows)
    return _section(
        "Confusion",
        "A row for each correct class, a column for each predicted class, in percent of the row.",
        f'<div class="wide">{chart}</div><details><summary>The most frequent confusions</summary>'
        f"{table}</details>",
    )


def _per_class(rows: Sequence[Row]) -> Html:
    measure = "accuracy" if "accuracy" in rows[0] else "average_precision"
    worst_first = sorted(rows, key=lambda row: row[measure])
    content = _class_table(worst_first[:WORST_CLASSES], measure)
    if len(rows) <= WORST_CLASSES:
        return _section("By class", "Worst first.", content)
    content = Html(
        f"{content}<details><summary>The other {len(rows) - WORST_CLASSES}</summary>"
        f"{_class_table(worst_first[WORST_CLASSES:], measure)}</details>"
    )
    text = f"The worst {WORST_CLASSES} of {len(rows)}; the others are below."
    return _section("By class", text, content)


def _class_table(rows: Sequence[Row], measure: str) -> Html:
    cells = (
        (
            escape_html(row["class"]),
            f"{row[measure]:.1%}",
            format_count(row["n"]),
            _bar(row[measure], *row["ci95"]),
        )
        for row in rows
    )
    return _table(("class", f"#{measure.replace('_', ' ')}", "#n", ""), cells)


def _reliability(bins: Sequence[Row]) -> Html:
    return _section(
        "Reliability",
        "Answers by their confidence. On the dashed line, 70 % of the answers with a confidence of "
        "70 % are correct. Bars below it are overconfident; pale bars have few answers.",
        charts.reliability_chart(bins),
    )


# --- mistakes ------------------------------------------------------------------------------------


def _wrong_answers(mistakes: Sequence[Row], find_picture: FindPicture) -> Html:
    figures = "".join(
        f"<figure>{_thumbnail(find_picture(row['picture']))}<figcaption>"
        f"{escape_html(', '.join(row['right']))}<br>not <em>{escape_html(row['given'])}</em> "
        f"<small>{row['confidence']:.0%}</small><br><small>{escape_html(row['picture'])}</small>"
        "</figcaption></figure>"
        for row in mistakes
    )
    return _section(
        "Most confident mistakes",
        "Below each picture: its class, the wrong answer and the confidence.",
        f'<div class="thumbs">{figures}</div>',
    )


def _retrieval_mistakes(mistakes: Sequence[Row], find_picture: FindPicture) -> Html:
    figures = "".join(
        f'<figure><div class="two">{_thumbnail(find_picture(row["picture"]))}'
        f"{_thumbnail(find_picture(row['given']))}</div><figcaption>"
        f"{escape_html(row['caption'])}<br><small>its own picture has rank "
        f"{format_count(row['rank'])}</small></figcaption></figure>"
        for row in mistakes
    )
    return _section(
        "Worst ranks",
        "Captions whose own picture (left) has the worst rank, beside the picture of rank 1 "
        "(right).",
        f'<div class="pair">{figures}</div>',
    )


def _thumbnail(picture: Picture) -> str:
    try:
        image = open_picture(picture, draft_size=THUMBNAIL).convert("RGB")
    except PictureError:  # it changed since it was measured
        return '<img alt="no longer readable">'
    tiny = max(image.size) < THUMBNAIL // 2  # the page enlarges these without smoothing
    image.thumbnail((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "webp", lossless=tiny, quality=75)
    code = base64.b64encode(file.getvalue()).decode()
    css_class = ' class="tiny"' if tiny else ""
    return f'<img{css_class} loading="lazy" alt="" src="data:image/webp;base64,{code}">'


# --- configuration -------------------------------------------------------------------------------


def _configuration(tree: Row) -> Html:
    rows = "".join(
        f"<dt>{escape_html(key.replace('_', ' '))}</dt><dd>{_format_value(value)}</dd>"
        for key, value in _flatten(tree)
    )
    return _section("Configuration", "The figures depend on these settings.", f"<dl>{rows}</dl>")


def _flatten(tree: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key} ")
        else:
            yield prefix + key, value


def _format_value(value: Any) -> Html:
    if not isinstance(value, list | tuple):
        return Html(f"<code>{escape_html(str(value))}</code>")
    if len(value) > 4:
        lines = "<br>".join(escape_html(str(entry)) for entry in value)
        return Html(f"<details><summary>{len(value)} values</summary>{lines}</details>")
    return Html(", ".join(escape_html(str(entry)) for entry in value))
