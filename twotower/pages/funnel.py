"""The funnel of filtered pairs as one self-contained HTML file, with samples of each reason."""

from __future__ import annotations

from pathlib import Path

from twotower.errors import PictureError
from twotower.files import atomic_write
from twotower.inputs.pictures import on_white, open_picture
from twotower.pages.render import Html, render
from twotower.pages.thumbnails import jpeg_base64
from twotower.pairs.filters.funnel import Funnel
from twotower.pairs.filters.samples import KEPT_REASON, SampledPair
from twotower.pairs.filters.settings import Reason

SIDE = 160  # pixels of a thumbnail
MAX_CAPTION = 200  # characters


def write_funnel_page(
    funnel: Funnel, samples: dict[Reason, list[SampledPair]], title: str, file: Path
) -> None:
    """Write the counts of a funnel, and samples of what each filter removed.

    Raises:
        OSError: the file cannot be written.
    """
    page = render(
        _PAGE,
        {
            "title": title,
            "kept": f"{funnel.kept:,} of {funnel.pairs:,} pairs kept".replace(",", "\u202f"),
            "rows": Html("".join(_table_rows(funnel))),
            "sections": Html("".join(_section(*entry) for entry in samples.items())),
        },
    )
    with atomic_write(file) as output:
        output.write(page)


def _table_rows(funnel: Funnel) -> list[Html]:
    rows, remaining = [], funnel.pairs
    for reason, count in funnel.removed.items():
        if not count:
            continue
        values = {
            "filter": reason.filter,
            "fault": reason.fault,
            "anchor": _anchor(reason),
            "count": f"{count:,}".replace(",", "\u202f"),
            "share": f"{count / remaining:.1%}",
        }
        remaining -= count
        values["remaining"] = f"{remaining:,}".replace(",", "\u202f")
        values["width"] = f"{100 * remaining / funnel.pairs:.1f}"
        rows.append(render(_ROW, values))
    return rows


def _section(reason: Reason, pairs: list[SampledPair]) -> Html:
    heading = "kept" if reason == KEPT_REASON else f"{reason.filter}: {reason.fault}"
    figures = Html("".join(_figure(pair) for pair in pairs))
    return render(_SECTION, {"heading": heading, "anchor": _anchor(reason), "figures": figures})


def _figure(pair: SampledPair) -> Html:
    jpeg = _thumbnail(pair.picture) if pair.picture else None
    image = Html(f'<img alt="" src="data:image/jpeg;base64,{jpeg}">' if jpeg else "")
    caption = pair.caption
    if len(caption) > MAX_CAPTION:
        caption = caption[:MAX_CAPTION] + "\u2026"
    return render(_FIGURE, {"image": image, "caption": caption or "\u2014", "url": pair.url[:300]})


def _thumbnail(picture: bytes) -> str | None:
    """Return a small JPEG in base64, or None if the picture cannot be read."""
    try:
        image = on_white(open_picture(picture, draft_size=SIDE))
    except PictureError:
        return None
    image.thumbnail((SIDE, SIDE))
    return jpeg_base64(image, quality=75)


def _anchor(reason: Reason) -> str:
    return f"{reason.filter} {reason.fault}".strip().replace(" ", "-")


_ROW = (
    '<tr><td>$filter<td><a href="#$anchor">$fault</a><td>$count<td>$share<td>$remaining'
    '<td class=bar><i style="width:$width%"></i>\n'
)
_SECTION = '<h2 id="$anchor">$heading</h2><main>$figures</main>\n'
_FIGURE = '<figure>$image<figcaption title="$url">$caption</figcaption></figure>\n'
_PAGE = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1d1c1a; --quiet: #77736b;
  --line: #e4e0d6; --mark: #c8502e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161513; --ink: #f2efe8; --quiet: #98938a; --line: #2f2d29; --mark: #f08a5d; } }
body { margin: 0; padding: clamp(1rem, 3vw, 3rem); background: var(--paper); color: var(--ink);
  font: 15px/1.4 system-ui, sans-serif; }
h1 { margin: 0; font: 500 clamp(1.5rem, 4vw, 2.6rem)/1.1 Georgia, "Times New Roman", serif; }
p { margin: .3rem 0 1.5rem; color: var(--quiet); }
h2 { margin: 2.5rem 0 .8rem; font-size: 1rem; font-weight: 600; }
a { color: inherit; }
table { border-collapse: collapse; width: 100%; max-width: 60rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; }
td:nth-child(n+3), th:nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 30%; }
td.bar i { display: block; height: 8px; border-radius: 4px; background: var(--mark); }
main { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; width: 160px; font-size: .8rem; overflow-wrap: anywhere; }
figure img { display: block; max-width: 100%; border-radius: 4px; margin-bottom: .3rem; }
</style>
<h1>$title</h1><p>$kept</p>
<table><tr><th>filter<th>reason<th>removed<th>share<th>remain<th>
$rows</table>
$sections
</html>
"""
