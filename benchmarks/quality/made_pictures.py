"""Render screenshots, documents, receipts and memes by a browser, for `detectors.py`.

The detectors were not fitted on these, but on pictures that examples/make_detectors.py draws by
other means, with other fonts and layouts. Texts are sentences of this project's docs, pictures are
its example photographs. Half of the documents and all receipts are laid askew on a photograph, with
uneven light and noise, as a camera takes them. Needs Chromium.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageFilter

from benchmarks.table import ROOT

SCREENS = ((1280, 800), (1920, 1080), (1366, 768), (390, 844), (412, 915), (820, 1180))
FONTS = ("STIXGeneral", "cmr10", "cmss10", "DejaVuSansDisplay")  # of matplotlib
MEME_FONT = "DejaVuSans-Bold"

Random = np.random.Generator


class Words:
    """Random sentences and words of the docs."""

    def __init__(self, random: Random) -> None:
        pages = sorted((ROOT / "docs").glob("*.md"))
        text = " ".join(page.read_text(encoding="utf-8") for page in pages)
        text = re.sub(r"```.*?```|<[^>]*>|\|.*?\n|[`*#\[\]()]", " ", text, flags=re.DOTALL)
        self._sentences = [
            " ".join(sentence.split())
            for sentence in re.split(r"(?<=[.:])\s", text)
            if 20 < len(sentence) < 200
        ]
        self._random = random

    def text(self, count: int) -> str:
        return " ".join(self._random.choice(self._sentences, count))

    def phrase(self, most: int) -> str:
        """Return 1 to `most` words."""
        words = self.text(1).split()
        return " ".join(words[: int(self._random.integers(1, most + 1))]).strip(".,:")


def made_pictures(kind: str, count: int) -> Iterator[Image.Image]:
    """Yield `count` pictures of a kind, equal in every run with the same docs."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for number in range(count):
            random = np.random.default_rng([sorted(KINDS).index(kind), number])
            body, size, photograph_page = KINDS[kind](random, Words(random))
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            page.goto(ROOT.as_uri())  # allows the page to load the example photographs
            page.set_content(head(random) + body)
            page.wait_for_load_state("networkidle")
            image = Image.open(io.BytesIO(page.screenshot(full_page=kind == "receipt")))
            page.close()
            yield photograph_page(image.convert("RGB"))
        browser.close()


def head(random: Random) -> str:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = "".join(
        f"@font-face {{font-family:{name};src:url({(folder / name).as_uri()}.ttf)}}"
        for name in (*FONTS, MEME_FONT)
    )
    font = random.choice([*FONTS, "sans-serif", "serif", "system-ui"])
    return f"""<style>{faces} * {{box-sizing:border-box}}
        body {{margin:0;font:{random.integers(12, 18)}px/1.45 {font}}}</style>"""


def photograph(random: Random) -> str:
    names = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
    return names[int(random.integers(len(names)))].as_uri()


# HTML, size of the window, and a function that changes the rendered picture
Page = tuple[str, tuple[int, int], Callable[[Image.Image], Image.Image]]


# --- screens -------------------------------------------------------------------------------------


def screenshot(random: Random, words: Words) -> Page:
    """Render an app: mail, chat, editor, shop, article or settings; light or dark."""
    size = SCREENS[int(random.integers(len(SCREENS)))]
    dark = random.random() < 0.4
    background, ink, soft = (
        ("#1d1f24", "#dcdfe4", "#2c2f36") if dark else ("#fff", "#222", "#eef0f3")
    )
    accent = f"hsl({random.integers(360)} 65% 45%)"
    apps = (mail, chat, editor, shop, article, settings)
    app = apps[int(random.integers(len(apps)))]
    narrow = size[0] < 600
    return (
        f"""<body style="background:{background};color:{ink}">
        <div style="background:{accent};color:#fff;padding:12px 18px"><b>{words.phrase(2)}</b></div>
        <div style="--soft:{soft};--accent:{accent}">{app(random, words, narrow)}</div>""",
        size,
        lambda image: image,
    )


def rows(count: int, row: Callable[[], str]) -> str:
    return "".join(row() for _ in range(count))


def mail(random: Random, words: Words, narrow: bool) -> str:
    side = (
        ""
        if narrow
        else f"<td width=190 valign=top>{rows(9, lambda: words.phrase(2) + '<p>')}</td>"
    )
    line = '<div style="border-bottom:1px solid #8884;padding:9px"><b>{}</b> {}</div>'
    mails = rows(14, lambda: line.format(words.phrase(3), words.phrase(9)))
    return f"<table width=100%><tr>{side}<td>{mails}</td></table>"


def chat(random: Random, words: Words, narrow: bool) -> str:
    def bubble() -> str:
        mine = random.random() < 0.5
        side, colour = ("right", "var(--accent)") if mine else ("left", "var(--soft)")
        style = f"background:{colour};border-radius:14px;padding:8px 14px;display:inline-block"
        return f'<p align={side}><span style="{style};max-width:70%">{words.phrase(14)}</span></p>'

    return f'<div style="padding:0 14px">{rows(12, bubble)}</div>'


def editor(random: Random, words: Words, narrow: bool) -> str:
    def line() -> str:
        colour = f"hsl({random.integers(360)} 60% 55%)"
        indent = "&nbsp;" * 4 * int(random.integers(4))
        return (
            f'{indent}<span style="color:{colour}">{words.phrase(2)}</span> = {words.phrase(5)}<br>'
        )

    return f'<div style="font-family:monospace;padding:10px">{rows(45, line)}</div>'


def shop(random: Random, words: Words, narrow: bool) -> str:
    def card() -> str:
        image = f'<img src="{photograph(random)}" width=100% height=150 style="object-fit:cover">'
        return f'<div style="background:var(--soft);padding:8px">{image}{words.phrase(5)}</div>'

    style = f"display:grid;grid-template-columns:repeat({2 if narrow else 4},1fr);gap:14px"
    return f'<div style="{style};padding:14px">{rows(12, card)}</div>'


def article(random: Random, words: Words, narrow: bool) -> str:
    image = f'<img src="{photograph(random)}" width=40% style="float:right;margin:12px">'
    text = rows(9, lambda: f"<p>{words.text(4)}</p>")
    return f'<div style="max-width:900px;margin:auto;padding:14px"><h1>{words.phrase(6)}</h1>' + (
        f"{image}{text}</div>"
    )


def settings(random: Random, words: Words, narrow: bool) -> str:
    def line() -> str:
        control = random.choice(
            ["<input type=checkbox checked>", "<input value=on>", "<button>Change</button>"]
        )
        return (
            f'<p style="display:flex;justify-content:space-between">{words.phrase(4)}{control}</p>'
        )

    return f'<div style="max-width:700px;margin:auto;padding:20px">{rows(11, line)}</div>'


# --- paper ---------------------------------------------------------------------------------------


def document(random: Random, words: Words) -> Page:
    """Render a letter, a paper in columns, a report with a table, or a form, on A4."""
    kind = random.choice(["letter", "paper", "report", "form"])
    text = rows(12, lambda: f"<p>{words.text(4)}</p>")
    title = f"<h2>{words.phrase(6)}</h2>"
    if kind == "letter":
        address = f"<p align=right>{words.phrase(3)}<br>{words.phrase(3)}</p>"
        body = f"{address}<p>{words.phrase(3)},</p>{text}"
    elif kind == "paper":
        body = f"<center>{title}</center><div style='columns:2'>{text * 2}</div>"
    elif kind == "report":
        line = "<tr>" + "<td style='border:1px solid #777;padding:4px'>{}" * 4
        table = rows(12, lambda: line.format(words.phrase(3), *random.integers(0, 9000, 3)))
        table = f"<table cellspacing=0 width=100%>{table}</table>"
        body = f"{title}<p>{words.text(4)}</p>{table}{text}"
    else:
        field = "<p>{}<br><span style='display:block;border:1px solid #555;height:30px'></span></p>"
        body = title + rows(11, lambda: field.format(words.phrase(4)))
    page = f'<body style="padding:{random.integers(50, 110)}px;background:#fff">{body}'
    by_camera = random.random() < 0.5
    return (
        page,
        (794, 1123),
        lambda image: photographed(random, image) if by_camera else image,
    )


def receipt(random: Random, words: Words) -> Page:
    """Render a strip with a shop, things and prices, a sum and thanks."""
    width = int(random.integers(240, 330))
    prices = random.uniform(0.4, 40, int(random.integers(4, 22)))
    items = "".join(
        f"<tr><td>{words.phrase(2)[:18]}<td align=right>{price:.2f}" for price in prices
    )
    body = f"""<body style="width:{width}px;padding:14px;background:#f7f6f1;color:#333">
        <center><h3>{words.phrase(2).upper()}</h3>{words.phrase(4)}<br>{words.phrase(3)}</center><hr>
        <table width=100%>{items}</table><hr>
        <table width=100%><tr><td><b>SUM<td align=right><b>{prices.sum():.2f}</table>
        <p>{words.phrase(8)}<p><center>THANK YOU</center>"""
    return body, (width, 300), lambda image: photographed(random, image)


def photographed(random: Random, page: Image.Image) -> Image.Image:
    """Lay a page askew on a photograph, with uneven light and noise."""
    width, height = round(page.width * random.uniform(1.1, 1.6)), round(page.height * 1.12)
    with Image.open(photograph(random)[len("file://") :]) as table:
        image = table.convert("RGB").resize((width, height))
    image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 6))))
    offset = np.array([(width - page.width) / 2, (height - page.height) / 2])
    corners = np.array([[0, 0], [page.width, 0], [page.width, page.height], [0, page.height]])
    moved = corners + offset + random.normal(0, 0.03 * page.width, (4, 2))
    a = []
    for (x, y), (u, v) in zip(moved, corners, strict=True):
        a += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    lens = np.linalg.solve(np.array(a), corners.ravel()).tolist()
    transform = Image.Transform.PERSPECTIVE, lens, Image.Resampling.BICUBIC
    mask = Image.new("L", page.size, 255).transform(image.size, *transform)
    image.paste(page.transform(image.size, *transform), (0, 0), mask)
    light = np.linspace(random.uniform(0.7, 1), random.uniform(0.8, 1.05), width)[:, None]
    noise = random.normal(0, random.uniform(1, 6), (height, width, 1))
    pixels = np.asarray(image, np.float32) * light * (1, 0.98, random.uniform(0.85, 1)) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# --- memes ---------------------------------------------------------------------------------------


def meme(random: Random, words: Words) -> Page:
    """Render a photograph under white capitals with black edges, or below a line on white."""
    size = int(random.integers(420, 800)), int(random.integers(380, 800))
    image = f"background:url({photograph(random)}) center/cover"
    large = size[0] // 11
    if random.random() < 0.3:
        text = f'<p style="margin:0;padding:14px;font-size:{large // 2}px">{words.phrase(12)}</p>'
        return f'<body>{text}<div style="{image};height:100vh"></div>', size, lambda image: image
    edge = f"-webkit-text-stroke:{large // 7}px #000;paint-order:stroke fill"
    style = f"position:absolute;width:100%;text-align:center;color:#fff;{edge}"
    font = f"font:{large}px/1.1 {MEME_FONT}"
    upper, lower = (words.phrase(4).upper() for _ in range(2))
    return (
        f"""<body style="{image};height:100vh"><div style="{style};{font};top:8px">{upper}</div>
        <div style="{style};{font};bottom:8px">{lower}</div>""",
        size,
        lambda image: image,
    )


KINDS: dict[str, Callable[[Random, Words], Page]] = {
    "screenshot": screenshot,
    "document": document,
    "receipt": receipt,
    "meme": meme,
}
