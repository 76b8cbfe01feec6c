"""The page of a funnel shows every reason, and escapes what it quotes."""

import io
from pathlib import Path

import PIL.Image

from twotower.pages.funnel import write_funnel_page
from twotower.pairs.filters.funnel import Funnel
from twotower.pairs.filters.samples import KEPT_REASON, SampledPair
from twotower.pairs.filters.settings import REASONS


def test_the_page_shows_counts_and_samples(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    PIL.Image.new("RGB", (800, 400), "red").save(jpeg, "JPEG")
    removed = dict.fromkeys(REASONS, 0) | {REASONS[3]: 250, REASONS[8]: 250}
    funnel = Funnel(1000, removed, 400, {"": {"limit": 20, "tail_share": 0.25}}, [])
    samples = {
        REASONS[3]: [SampledPair("<script>dog</script>", 'https://a.example/"x"', None)],
        REASONS[8]: [SampledPair("x" * 900, "", b"no picture")],
        KEPT_REASON: [SampledPair("a red field", "", jpeg.getvalue())],
    }
    write_funnel_page(funnel, samples, "crawl & <b>", tmp_path / "funnel.html")
    page = (tmp_path / "funnel.html").read_text(encoding="utf-8")
    assert "500 of 1\u202f000 pairs kept" in page
    assert "<td>250<td>25.0%<td>750" in page
    assert "<td>250<td>33.3%<td>500" in page
    assert "&lt;script&gt;dog" in page
    assert "<script>" not in page
    assert "crawl &amp; &lt;b&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert "x" * 201 not in page
    for reason in (REASONS[3], REASONS[8]):
        assert page.count(f'"{reason.filter}-{reason.fault.replace(" ", "-")}"') == 1  # a heading
    lines = list(funnel.lines())
    assert lines[0].split() == ["pairs", "1,000"]
    assert lines[1].split()[-3:] == ["250", "25.0%", "750"]
    assert lines[-1] == "queries (all languages): at most 20 matches each, 25.0% in the tail"
