"""A result as one page that needs nothing else: tables, pictures of the errors, configuration."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import PIL.Image

from twotower.errors import PictureError
from twotower.evaluate import charts
from twotower.evaluate.result_rows import Number, count, not_the_whole, numbers, set_line, title
from twotower.inputs.pictures import Picture, open_picture
from twotower.pages.render import Html, render

TEMPLATE = Path(__file__).parent / "report.html"
TASKS = {
    "zero-shot": "Zero-shot classification",
    "retrieval": "Retrieval",
    "probe": "Linear probe and few shots",
    "robustness": "Robustness",
}
CARDS = ("top1", "top5", "mean_per_class", "map", "ece")
WORST_CLASSES = 15
THUMBNAIL = 240  # pixels; smaller pictures are enlarged by whole pixels, so that they stay sharp


def write_report(
    result: Mapping[str, Any], directory: Path, find: Callable[[str], Picture]
) -> Path:
    """Write `index.html` into a directory, which is made if need be.

    Args:
        result: of any evaluation. find: the picture of a key, for thumbnails.

    Returns:
        The page.
    """
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "index.html"
    model, about = result["configuration"]["model"], result["set"]
    fields = {
        "title": f"{model['name']} on {about['title']}",
        "task": TASKS[result["task"]],
        "subtitle": Html(escape(set_line(result)) + f". Model {_fingerprint(model)}."),
        "warning": Html(_warning(result)),
        "body": Html("\n".join(_sections(result, find))),
    }
    text = render(TEMPLATE.read_text(encoding="utf-8"), fields)
    page.write_text(text, encoding="utf-8", errors="replace")  # names of files may be no text
    return page


def _sections(result: Mapping[str, Any], find: Callable[[str], Picture]) -> Iterator[str]:
    every = list(numbers(result))
    cards = [one for one in every if one.measure in CARDS]
    yield _cards(cards or every)
    if result["published"]:
        yield _published(result["published"])
    if result.get("few_shot"):
        yield _section(
            "With a few labelled pictures",
            "Settings are chosen on other pictures than the tested ones; each point is the mean of "
            "three draws, its line the 95 % interval.",
            charts.few_shot(result["few_shot"], result["zero_shot"]),
        )
    if "corruptions" in result:
        yield _corruptions(result)
    if "shift" in result:
        yield _shift(result["shift"])
    if result.get("confusion"):
        yield _confusion(result)
    if "per_class" in result:
        yield _per_class(result["per_class"])
    if "reliability" in result:
        yield _section(
            "Can its confidence be believed?",
            "Answers by their probability. On the dashed line, answers of 70 % are right in 70 % "
            "of cases; bars below it are too sure. Pale bars stand for few answers.",
            charts.reliability(result["reliability"]),
        )
    if result["mistakes"]:
        show = _wrong_pictures if result["task"] == "retrieval" else _wrong_answers
        yield show(result["mistakes"], find)
    yield _section(
        "Every number", "Shares with 95 % intervals, by bootstrap over pictures.", _table(every)
    )
    if result["unreadable"]:
        rows = "".join(f"<li>{escape(line)}</li>" for line in result["unreadable"])
        yield _section("Left out", "These could not be read.", f"<ul>{rows}</ul>")
    yield _configuration(result["configuration"])


def _section(heading: str, text: str, content: str) -> str:
    return f"<section><h2>{heading}</h2><p>{text}</p>{content}</section>"


def _warning(result: Mapping[str, Any]) -> str:
    notes = []
    if note := not_the_whole(result):
        notes.append(f"{note[0].upper()}{note[1:]}.")
    if result["unreadable"]:
        notes.append(f"{count(len(result['unreadable']))} pictures were left out (see below).")
    return f'<p class="warn">{escape(" ".join(notes))}</p>' if notes else ""


def _fingerprint(model: Mapping[str, Any]) -> str:
    mark = model.get("fingerprint")
    return f"fingerprint <code>{mark[:12]}</code>" if mark else "without a fingerprint"


def _cards(cards: Sequence[Number]) -> str:
    tiles = "".join(
        f'<div class="card"><span>{escape(one.title)}</span><b>{one.value:.1%}</b>'
        f"<span>{one.low:.1%} to {one.high:.1%}</span></div>"
        for one in cards
    )
    return f'<div class="cards n{len(cards)}">{tiles}</div>'


def _table(rows: Sequence[Number]) -> str:
    lines = "".join(
        f'<tr><td>{escape(one.title)}</td><td class="num">{one.value:.2%}</td>'
        f'<td class="num">{one.low:.2%} to {one.high:.2%}</td><td class="num">{count(one.n)}</td>'
        f"<td>{_track(one.value, one.low, one.high)}</td></tr>"
        for one in rows
    )
    head = '<th>measure</th><th class="num">value</th><th class="num">interval</th>'
    head += '<th class="num">n</th><th></th>'
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def _track(value: float, low: float, high: float) -> str:
    low, high, value = (min(max(one, 0.0), 1.0) for one in (low, high, value))
    return (
        f'<div class="track"><i style="left:{low:.2%};width:{high - low:.2%}"></i>'
        f'<u style="left:{value:.2%}"></u></div>'
    )


def _published(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = "".join(
        f"<tr><td>{escape(one['model'])}</td><td>{escape(title(one['measure'].split('.')))}</td>"
        f'<td class="num">{one["published"]:.2%}</td><td class="num">{one["here"]:.2%}</td>'
        f"<td>{'' if one['whole_set'] else 'published for the whole set: not comparable'}</td></tr>"
        for one in rows
    )
    head = '<th>model</th><th>measure</th><th class="num">published</th><th class="num">here</th>'
    text = f"From {escape(rows[0]['source'])}. The model is known by its name alone."
    table = f"<table><tr>{head}<th></th></tr>{lines}</table>"
    return _section("Beside what is published", text, table)


def _per_class(rows: Sequence[Mapping[str, Any]]) -> str:
    measure = "accuracy" if "accuracy" in rows[0] else "average_precision"
    worst_first = sorted(rows, key=lambda one: one[measure])
    text = "Worst first."
    if len(rows) > WORST_CLASSES:
        text = f"The worst {WORST_CLASSES} of {len(rows)}; all of them below."
    content = _class_table(worst_first[:WORST_CLASSES], measure)
    if len(rows) > WORST_CLASSES:
        rest = _class_table(worst_first[WORST_CLASSES:], measure)
        content += (
            f"<details><summary>The other {len(rows) - WORST_CLASSES}</summary>{rest}</details>"
        )
    return _section("By class", text, content)


def _class_table(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    lines = []
    for one in rows:
        value = one[measure]
        low, high = one["ci95"]
        lines.append(
            f'<tr><td>{escape(one["class"])}</td><td class="num">{value:.1%}</td>'
            f'<td class="num">{count(one["n"])}</td><td>{_track(value, low, high)}</td></tr>'
        )
    head = f'<th>class</th><th class="num">{measure.replace("_", " ")}</th><th class="num">n</th>'
    return f"<table><tr>{head}<th></th></tr>{''.join(lines)}</table>"


def _confusion(result: Mapping[str, Any]) -> str:
    pairs = "".join(
        f"<tr><td>{escape(right)}</td><td>{escape(given)}</td>"
        f'<td class="num">{count(often)}</td></tr>'
        for right, given, often in result["confusion"][:10]
    )
    head = '<th>right</th><th>given instead</th><th class="num">times</th>'
    picture = charts.confusion(result["per_class"], result["confusion"])
    return _section(
        "What it takes for what",
        "A row for each right class, a column for each answer, in percent of the row.",
        f'<div class="wide">{picture}</div><details><summary>The most frequent confusions'
        f"</summary><table><tr>{head}</tr>{pairs}</table></details>",
    )


def _corruptions(result: Mapping[str, Any]) -> str:
    clean = result["top1"]
    kinds = result["corruptions"]
    severities = list(next(iter(kinds.values())))
    lines = []
    for kind, by_severity in kinds.items():
        cells = "".join(
            f'<td><span style="background:color-mix(in srgb, var(--hit) '
            f'{55 * min(1, one["top1"] / max(clean, 1e-9)):.0f}%, transparent)">'
            f"{one['top1']:.1%}</span></td>"
            for one in by_severity.values()
        )
        lines.append(f"<tr><td>{kind.replace('_', ' ')}</td>{cells}</tr>")
    head = "".join(f'<th style="text-align:center">{severity}</th>' for severity in severities)
    table = f'<table class="heat"><tr><th>severity</th>{head}</tr>{"".join(lines)}</table>'
    return _section(
        "Corrupted pictures",
        f"Top-1 on the pictures as they are: {clean:.1%}; mean over the table: "
        f"{result['mean_corrupted']['top1']:.1%}. Darker keeps more of it.",
        table,
    )


def _shift(shift: Mapping[str, Mapping[str, Any]]) -> str:
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td class="num">{count(one["classes"])}</td>'
        f'<td class="num">{one["first_set"]["top1"]:.1%}</td><td class="num">{one["top1"]:.1%}</td>'
        f'<td class="num">{100 * one["drop"]:+.1f} ({100 * one["ci95"]["drop"][0]:+.1f} to '
        f"{100 * one['ci95']['drop'][1]:+.1f})</td></tr>"
        for name, one in shift.items()
    )
    head = '<th>set</th><th class="num">shared classes</th><th class="num">first set</th>'
    head += '<th class="num">this set</th><th class="num">points lost</th>'
    text = "Top-1 over the classes that both sets have."
    return _section("Other sets", text, f"<table><tr>{head}</tr>{lines}</table>")


def _wrong_answers(mistakes: Sequence[Mapping[str, Any]], find: Callable[[str], Picture]) -> str:
    figures = "".join(
        f"<figure>{_thumbnail(find(one['picture']))}<figcaption>"
        f"{escape(', '.join(one['right']))}<br>not <em>{escape(one['given'])}</em> "
        f"<small>{one['confidence']:.0%}</small><br><small>{escape(one['picture'])}</small>"
        "</figcaption></figure>"
        for one in mistakes
    )
    text = "Wrong, and most sure of it; below each picture what it shows and what was said instead."
    return _section("The worst mistakes", text, f'<div class="thumbs">{figures}</div>')


def _wrong_pictures(mistakes: Sequence[Mapping[str, Any]], find: Callable[[str], Picture]) -> str:
    figures = "".join(
        f'<figure><div class="two">{_thumbnail(find(one["picture"]))}'
        f"{_thumbnail(find(one['given']))}</div><figcaption>{escape(one['caption'])}<br>"
        f"<small>its own picture came as number {count(one['rank'])}</small></figcaption></figure>"
        for one in mistakes
    )
    text = (
        "Captions furthest from their picture: on the left the picture that belongs to it, on the "
        "right the one that came first."
    )
    return _section("The worst mistakes", text, f'<div class="pair">{figures}</div>')


def _thumbnail(picture: Picture) -> str:
    try:
        image = open_picture(picture, draft_size=THUMBNAIL).convert("RGB")
    except PictureError:  # it could be read before; the page goes on without it
        return '<img alt="no longer readable">'
    tiny = max(image.size) < THUMBNAIL // 2
    image.thumbnail((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "webp", lossless=tiny, quality=75)
    code = base64.b64encode(file.getvalue()).decode()
    kind = ' class="tiny"' if tiny else ""
    return f'<img{kind} loading="lazy" alt="" src="data:image/webp;base64,{code}">'


def _configuration(tree: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{_value(value)}</dd>"
        for key, value in _flat(tree)
    )
    text = "What these numbers depend on."
    return _section("Configuration", text, f"<dl>{rows}</dl>")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield prefix + key, value


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        whole = "<br>".join(escape(str(one)) for one in value)
        if len(value) > 4:
            return f"<details><summary>{len(value)} of them</summary>{whole}</details>"
        return ", ".join(escape(str(one)) for one in value)
    return f"<code>{escape(str(value))}</code>"
