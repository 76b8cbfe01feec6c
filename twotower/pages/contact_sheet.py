"""A contact sheet: the hits of a search as one self-contained HTML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from twotower.files import atomic_write
from twotower.pages.render import Html, render
from twotower.pages.thumbnails import jpeg_base64, thumbnail
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.search.hits import Hit, SearchResult

HEIGHT = 360  # pixels of a thumbnail in the file; the page displays at most two thirds of it


def write_contact_sheet(
    result: SearchResult, pictures: int, file: Path, report: ReportProgress = ignore_progress
) -> list[Path]:
    """Write what a search among `pictures` pictures found: matches, then those below the cut-off.

    Returns:
        The pictures that are missing in the file because they can no longer be read.

    Raises:
        OSError: the file cannot be written.
    """
    hits, figures = [*result.hits, *result.near], []
    for done, hit in enumerate(hits, 1):
        figures.append((hit, _figure(result, hit, file)))
        report(Progress(done, len(hits), stage="Writing the page"))
    matches = "".join(figure for hit, figure in figures if hit.match)
    below = "".join(figure for hit, figure in figures if not hit.match)
    count = f"{result.matches:,} of {pictures:,} pictures match"
    page = render(
        _PAGE,
        {
            "query": result.query,
            "count": count.replace(",", "\u202f") if result.matches else _empty_count(result),
            "matches": Html(f"<main>{matches}</main>" if matches else ""),
            "below": Html(
                f"<h2>below the cut-off</h2><main class=below>{below}</main>" if below else ""
            ),
            "cutoff": "" if result.cutoff is None else f" \u00b7 cut-off {result.cutoff:.0%}",
        },
    )
    with atomic_write(file) as output:
        output.write(page)
    return [hit.path for hit, figure in figures if not figure]


def _empty_count(result: SearchResult) -> str:
    """Return what stands for the count where nothing matches."""
    if result.near:
        return "Nothing surely matches"
    return "Nothing matches" if result.hits or result.cutoff is None else "Nothing looks like it"


def _figure(result: SearchResult, hit: Hit, file: Path) -> Html:
    """A hit's figure; empty if its picture can no longer be read."""
    image = thumbnail(hit.path, HEIGHT)
    if image is None:
        return Html()
    link = os.path.relpath(hit.path.resolve(), file.resolve().parent)
    probability = None if result.by_name_only(hit) else hit.probability
    notes = [hit.taken[:10]] if hit.taken else []
    notes += ["by its name"] if hit.named else []
    notes += [f"+{len(hit.copies)} alike"] if hit.copies else []
    values = {
        "link": quote(os.fsencode(link)),
        "jpeg": jpeg_base64(image, quality=82),
        "width": str(image.width),
        "height": str(image.height),
        "share": f"{image.width / image.height:.4f}",
        "name": hit.path.name,
        "notes": " \u00b7 ".join(notes),
        "percent": Html("" if probability is None else f"<b>{probability:.0%}</b>"),
        "bar": Html(
            "" if probability is None else f'<i style="width:{100 * probability:.1f}%"></i>'
        ),
    }
    return render(_FIGURE, values)


_FIGURE = (
    '<a class=hit href="$link" style="--share:$share"><img alt="$name" width=$width height=$height '
    'src="data:image/jpeg;base64,$jpeg"><span class=about><span class=name>$name</span>'
    "<span class=notes>$notes</span>$percent</span>$bar</a>\n"
)

_PAGE = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>$query</title>
<style>
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1d1c1a; --quiet: #77736b;
  --line: #e4e0d6; --mark: #c8502e; --row: 240px; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161513; --ink: #f2efe8; --quiet: #98938a; --line: #2f2d29; --mark: #f08a5d; } }
* { box-sizing: border-box; }
body { margin: 0; padding: clamp(1rem, 3vw, 3rem); background: var(--paper); color: var(--ink);
  font: 15px/1.4 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .3rem 1.5rem;
  margin-bottom: 1.5rem; padding-bottom: 1rem; border-bottom: 1px solid var(--line); }
h1 { margin: 0; font: 500 clamp(1.5rem, 4vw, 2.6rem)/1.1 Georgia, "Times New Roman", serif;
  letter-spacing: -.01em; overflow-wrap: anywhere; }
p { margin: 0; color: var(--quiet); }
h2 { margin: 2.5rem 0 1rem; padding-top: 1rem; border-top: 1px dashed var(--line);
  color: var(--quiet); font-size: .85rem; font-weight: 500; letter-spacing: .04em; }
header + h2 { margin-top: 0; padding-top: 0; border: 0; }
main { display: flex; flex-wrap: wrap; gap: 10px; }
main::after { content: ""; flex: 1000 0 0; }
.hit { position: relative; flex: calc(var(--share) * 100) 1 calc(var(--share) * var(--row) * .72);
  max-width: calc(var(--share) * var(--row) * 1.3); border-radius: 6px; overflow: hidden;
  color: #fff; text-decoration: none; background: var(--line); }
.hit img { display: block; width: 100%; height: auto; }
.hit:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.about { position: absolute; inset: auto 0 0 0; display: flex; align-items: baseline; gap: .6em;
  padding: 2.2em .8em .7em; font-size: .8rem; text-shadow: 0 1px 2px #0009;
  background: linear-gradient(#0000, #000a); }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.notes { flex: 1; white-space: nowrap; opacity: .75; }
.about b { font-weight: 600; font-variant-numeric: tabular-nums; }
.hit i { position: absolute; bottom: 0; left: 0; height: 3px; background: var(--mark); }
.below { --row: 160px; }
.below img { filter: saturate(.5); opacity: .8; }
</style>
<header><h1>$query</h1><p>$count$cutoff</p></header>
$matches$below
</html>
"""
