"""Make web pages with the markup of real ones: scripts, menus, galleries, lazy images and faults.

Sizes follow Common Crawl's: 30 to 150 KB, mostly scripts, styles and menus, with 10 to 60 images.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

WORDS = (
    "red old small quiet bright wooden morning river garden market street cat fox horse bridge "
    "harbour mountain winter summer bread coffee table window child dancer guitar bicycle train "
    "island lighthouse forest meadow storm cloud sunset kitchen teapot lantern castle village "
    "with near under beside the a of on in through running sleeping painted broken famous local"
).split()
ODD_WORDS = ("café", "naïve", "Zürich", "señor", "Ærø", "piñata", "façade", "smörgåsbord")


class PageMaker:
    """Makes pages from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.images = 0

    def words(self, low: int, high: int) -> str:
        count = self.random.randint(low, high)
        words = self.random.choices(WORDS, k=count)
        if self.random.random() < 0.2:
            words.append(self.random.choice(ODD_WORDS))
        return " ".join(words)

    def page(self) -> tuple[str, bytes]:
        """Return an address and the bytes of a page in UTF-8 or, in one of ten, windows-1252."""
        chance = self.random
        host = f"www.{chance.choice(WORDS)}-{chance.randint(1, 999)}.example"
        url = f"https://{host}/{chance.choice(WORDS)}/{chance.randint(1, 9999)}.html"
        encoding = "windows-1252" if chance.random() < 0.1 else "utf-8"
        title = self.words(3, 9)
        pieces = [self._head(title, encoding), "<body class='home page'>", self._menu()]
        makers = (self._article, self._figures, self._cards, self._table, self._noise)
        for _ in range(chance.randint(6, 14)):
            pieces.append(chance.choice(makers)())
        pieces += [self._script(chance.randint(5, 30)), self._footer(), "</body></html>"]
        return url, "\n".join(pieces).encode(encoding)

    def _head(self, title: str, encoding: str) -> str:
        thing = {
            "@context": "https://schema.org",
            "@type": "Article",
            "headline": title,
            "image": [f"https://cdn.example/{self._name()}"],
            "publisher": {"@type": "Organization", "logo": {"url": "/static/logo.png"}},
        }
        return (
            f"<!DOCTYPE html><html lang=en-GB><head><meta charset={encoding}><title>{title}</title>"
            f'<meta property="og:image" content="/media/{self._name()}">'
            f'<meta property="og:title" content="{title}">'
            f'<meta name=description content="{self.words(10, 25)}">'
            '<meta name="viewport" content="width=device-width">'
            f"<script type='application/ld+json'>{json.dumps(thing)}</script>"
            f"<style>{self._css()}</style>{self._script(self.random.randint(5, 25))}</head>"
        )

    def _css(self) -> str:
        return "".join(
            f".c{i} > li:hover{{margin:{i}px;background:url(/i/{i}.png)}}\n"
            for i in range(self.random.randint(50, 250))
        )

    def _script(self, kilobytes: int) -> str:
        line = "if(window.a<b&&c>0){document.write('<div class=\"ad\">'+x+'</div>');}\n"
        return f"<script>{line * (kilobytes * 1000 // len(line))}</script>"

    def _menu(self) -> str:
        links = "".join(
            f'<li class="menu-item c{i}"><a href="/{self.random.choice(WORDS)}/{i}" '
            f"data-id={i}><span>{self.words(1, 3)}</span></a>"
            for i in range(self.random.randint(40, 160))
        )
        return (
            '<header><a href=/><img src="/static/logo.svg" alt="Logo"></a>'
            f"<nav><ul>{links}</ul></nav></header>"
            '<img src="https://www.facebook.com/tr?id=1" width=1 height=1 alt="">'
        )

    def _name(self) -> str:
        self.images += 1
        return f"{self.random.choice(WORDS)}-{self.images}.jpg"

    def _image(self) -> str:
        """Return an `img` in one of the forms of real pages."""
        name, alt = self._name(), self.words(2, 12)
        stem = name.removesuffix(".jpg")
        sizes = ", ".join(f"/img/{stem}-{width}.jpg {width}w" for width in (320, 640, 1280, 2560))
        forms = (
            f'<img src="/img/{name}" alt="{alt}" width=640 height=480>',
            f'<img class="size-full c3" src="../img/{name}" alt=\'{alt}\' title="{alt}">',
            f'<img src="/img/{name}" srcset="{sizes}" sizes="(max-width: 640px) 100vw, 640px" '
            f'alt="{alt} &amp; more" loading=lazy decoding=async width="640" height="480">',
            f'<img data-src="//cdn.example/{name}" src="data:image/gif;base64,R0lGODlhAQABAA==" '
            f'alt="{alt}" class=lazyload><noscript><img src="//cdn.example/{name}" alt="{alt}">'
            "</noscript>",
            f'<picture><source type="image/webp" srcset="/w/{stem}.webp 1x, /w/{stem}@2x.webp 2x">'
            f'<img src="/img/{name}" alt="{alt}"></picture>',
            f"<IMG SRC=/img/{name} ALT='{alt}' BORDER=0>",
            f'<img src="/img/{name}" alt="">',
            '<img src="/icons/icon-search.png" alt="search" width="16" height="16">',
        )
        return self.random.choice(forms)

    def _article(self) -> str:
        pieces = [f"<h2>{self.words(3, 8)}</h2>"]
        for _ in range(self.random.randint(2, 6)):
            pieces.append(f"<p>{self.words(30, 90)} <b>{self.words(1, 3)}</b>, {self.words(5, 30)}")
            if self.random.random() < 0.5:
                pieces.append(self._image())
        return f"<article>{''.join(pieces)}</article>"

    def _figures(self) -> str:
        figures = "".join(
            f'<figure class="wp-block-image">{self._image()}'
            f"<figcaption>{self.words(3, 9)} <em>{self.words(1, 2)}</em></figcaption></figure>"
            for _ in range(self.random.randint(1, 4))
        )
        old = (
            f'<div class="wp-caption alignleft">{self._image()}'
            f'<p class="wp-caption-text">{self.words(3, 12)}</p></div>'
        )
        return figures + old

    def _cards(self) -> str:
        return "".join(
            f'<div class="card c{i}"><div class="inner"><a href="/p/{i}" class="card-link">'
            f"{self._image()}<h3>{self.words(2, 6)}</h3></a>"
            f'<span class="price">{i}.99</span><button>Buy</button></div></div>'
            for i in range(self.random.randint(2, 8))
        )

    def _table(self) -> str:
        rows = "".join(
            f"<tr><td>{self.words(1, 4)}</td><td align=right>{i}</td></tr>"
            for i in range(self.random.randint(5, 30))
        )
        return f"<table border=1>{rows}</table>"

    def _noise(self) -> str:
        """Return markup with the faults of real pages."""
        return (
            f"<!-- {self.words(5, 20)} --><div><p>{self.words(5, 20)}<div><b>"
            f"{self.words(1, 4)}</b></div></p></div></span>"
            f"<ul><li>{self.words(1, 3)}<li>{self.words(1, 3)}</ul>"
            f"<a href='/full/{self._name()}'>{self.words(2, 6)}</a><br/>&nbsp;&copy; 2026"
        )

    def _footer(self) -> str:
        links = "".join(
            f'<a href="/f/{i}" class="footer-link" rel=nofollow>{self.words(1, 3)}</a> '
            for i in range(self.random.randint(20, 60))
        )
        return f'<footer>{links}<img src="/pixel.gif" width="1" height="1" alt=""></footer>'


def made_pages(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield the address and the bytes of pages."""
    maker = PageMaker(seed)
    for _ in range(count):
        yield maker.page()


def write_warc(path: Path, count: int, seed: int = 0) -> None:
    """Write pages as a WARC file, each record compressed by itself, as Common Crawl's are."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for url, body in made_pages(count, seed):
            headers = StatusAndHeaders(
                "200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1"
            )
            record = writer.create_warc_record(
                url, "response", payload=io.BytesIO(body), http_headers=headers
            )
            writer.write_record(record)
