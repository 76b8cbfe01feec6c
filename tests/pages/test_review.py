"""The review page in a real browser, from keys to a file that `--learn` takes."""

import os
import shutil
from pathlib import Path

import pytest

from twotower.cli.main import main
from twotower.library import Library

pytestmark = pytest.mark.browser
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def test_keys_accept_and_reject_and_the_file_is_learned(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here")
    assert CHROMIUM, "no Chromium here"
    root, page_file = tmp_path / "pictures", tmp_path / "review.html"
    root.mkdir()
    for name in ("cat.jpg", "dog.jpg", "oranges.jpg"):
        shutil.copy(PHOTOS / name, root)
    (root / "dog.jpg").rename(root / '<script> "dog", 1.jpg')
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\nfruit\n")
    assert main(["tag", str(root), "--vocabulary", str(words), "--review", str(page_file)]) == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        requests: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        assert page.locator("figure").count() == 9
        page.wait_for_function("[...document.images].every(image => image.naturalWidth > 0)")
        accepted, rejected, toggled = (page.locator("figure").nth(i) for i in range(3))
        tags = page.evaluate("data.tags.map(entry => entry.tag)")
        titles = [figure.get_attribute("title") for figure in (accepted, rejected, toggled)]
        page.keyboard.press("a")
        page.keyboard.press("r")
        page.keyboard.press("a")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("u")  # the third again, which is neither now
        toggled.click()
        toggled.click()  # from yes to no
        assert "yes" in (accepted.get_attribute("class") or "")
        assert "no" in (rejected.get_attribute("class") or "")
        with page.expect_download() as download:
            page.keyboard.press("s")
        corrections = tmp_path / "corrections.csv"
        download.value.save_as(corrections)
        leaving = "!dispatchEvent(new Event('beforeunload', {cancelable: true}))"
        assert not page.evaluate(leaving)
        toggled.click()
        toggled.click()  # yes: as many verdicts as were saved, and another one
        assert page.evaluate(leaving)
        browser.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []
    options = ["--vocabulary", str(words), "--dry-run", "--learn", str(corrections)]
    assert main(["tag", str(root), *options]) == 0
    library = Library(root)
    verdicts = {(row.tag, row.id): row.accepted for row in library.catalog.corrections()}
    ids = {record.path: record.id for record in library.catalog.records()}
    expected = zip(titles, (True, False, False), strict=True)
    assert verdicts == {(tags[0], ids[str(title)]): verdict for title, verdict in expected}
