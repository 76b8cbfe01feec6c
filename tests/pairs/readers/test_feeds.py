from collections import Counter

from twotower.pairs.candidates import Candidate, Reason
from twotower.pairs.readers.feeds import feed_candidates
from twotower.pairs.readers.reading import Reading

SITEMAP = b"""
<?xml version="1.0" encoding="UTF-8"?>
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"
        xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
  <url><loc>https://site.example/a.html</loc>
    <image:image><image:loc>https://cdn.example/a.jpg</image:loc>
      <image:caption>A fox</image:caption><image:title>Fox</image:title></image:image>
    <image:image><image:loc>https://cdn.example/b.jpg</image:loc></image:image></url>
</urlset>"""
RSS = b"""<?xml version="1.0"?>
<rss version="2.0" xmlns:media="http://search.yahoo.com/mrss/"
     xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel>
<language>en-us</language><image><url>https://site.example/logo.png</url></image>
<item><title>Fox news</title><link>https://site.example/fox</link>
  <enclosure url="https://site.example/e.jpg" type="image/jpeg" length="1"/>
  <enclosure url="https://site.example/e.mp3" type="audio/mpeg" length="1"/>
  <media:group>
    <media:content url="https://site.example/m-100.jpg" medium="image" width="100"/>
    <media:content url="https://site.example/m-900.jpg" medium="image" width="900" height="600"/>
    <media:title>A fox in snow</media:title></media:group>
  <media:description>A red fox</media:description>
  <content:encoded><![CDATA[<p><img src="/c.jpg" alt="Fox cub"></p>]]></content:encoded>
</item></channel></rss>"""
ATOM = b"""<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="de"><entry>
<title>Ein Fuchs</title><link href="https://site.example/f"/>
<link rel="enclosure" type="image/png" href="/e.png"/>
<content type="html">&lt;img src="c.jpg" alt="Rotfuchs"&gt;</content>
</entry></feed>"""


def read(feed: bytes, block: int = 64) -> tuple[list[Candidate], Counter[str]]:
    reading = Reading()
    blocks = [feed[i : i + block] for i in range(0, len(feed), block)]
    return list(feed_candidates(blocks, "https://site.example/feed", "f", reading)), reading.counts


def pairs(feed: bytes) -> list[tuple[str, str, str, str]]:
    return [
        (c.url.removeprefix("https://"), c.caption, c.caption_source, c.language)
        for c in read(feed)[0]
    ]


def test_sitemaps_with_images() -> None:
    candidates, counts = read(SITEMAP)
    assert pairs(SITEMAP) == [
        ("cdn.example/a.jpg", "A fox", "caption", ""),
        ("cdn.example/a.jpg", "Fox", "title", ""),
    ]
    assert candidates[0].page_url == "https://site.example/a.html"
    assert counts == {"pages": 1, Reason.NO_TEXT: 1}


def test_rss_with_enclosures_media_and_markup() -> None:
    assert pairs(RSS) == [
        ("site.example/e.jpg", "Fox news", "title", "en-US"),
        ("site.example/m-900.jpg", "A red fox", "caption", "en-US"),
        ("site.example/m-900.jpg", "Fox news", "title", "en-US"),
        ("site.example/c.jpg", "Fox cub", "alt", "en-US"),
    ]
    widths = {c.url: (c.width, c.height) for c in read(RSS)[0]}
    assert widths["https://site.example/m-900.jpg"] == (900, 600)


def test_atom() -> None:
    assert pairs(ATOM) == [
        ("site.example/e.png", "Ein Fuchs", "title", "de"),
        ("site.example/c.jpg", "Rotfuchs", "alt", "de"),
    ]


def test_a_broken_feed_keeps_the_entries_before() -> None:
    item = b"<item><title>Fox</title><enclosure url='https://h.example/a.jpg'/></item>"
    candidates, counts = read(b"<rss><channel>" + item + b"<item>&undefined;</item>" + item)
    assert len(candidates) == 1
    assert counts[Reason.MALFORMED_RECORD] == 1


def test_entities_that_expand_are_refused() -> None:
    bomb = b"<!DOCTYPE r [<!ENTITY a 'aaaaaaaaaa'>"
    for name, inner in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"<!ENTITY {name} '{f'&{inner};' * 10}'>".encode()
    bomb += b"]><rss><item><title>&i;</title></item></rss>"
    candidates, counts = read(bomb, len(bomb))
    assert candidates == []
    assert counts[Reason.MALFORMED_RECORD] == 1


def test_external_entities_are_not_read() -> None:
    feed = b"""<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><rss><item><title>&x;</title>
        <enclosure url='https://h.example/a.jpg'/></item></rss>"""
    assert read(feed)[0] == []
