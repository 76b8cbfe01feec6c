"""The page in a real browser: searches, keys, reviews, states, accessibility."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
sync_api = pytest.importorskip("playwright.sync_api")

from PIL import Image

from tests.serve.running import running_server

pytestmark = pytest.mark.browser
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
NAMES = "beach bee bicycle bus butterfly car castle cat clock cow dog giraffe horse penguin".split()
DATE = 36867  # the EXIF tag DateTimeOriginal
KEY = "a key of the tests"
SECONDS = 200_000  # milliseconds that an answer may take on a busy machine


def make_library(folder: Path) -> int:
    """Write photographs with dates, and a smaller copy; return their number."""
    folder.mkdir()
    for month, name in enumerate(NAMES):
        with Image.open(PHOTOS / f"{name}.jpg") as picture:
            exif = picture.getexif()
            exif.get_ifd(0x8769)[DATE] = f"2023:{month % 12 + 1:02}:15 12:00:00"
            picture.save(folder / f"{name}.jpg", exif=exif, quality=90)
    with Image.open(PHOTOS / "dog.jpg") as picture:
        picture.resize((320, 240)).save(folder / "dog small.jpg", quality=90)
    return len(NAMES) + 1


def copy_tag_embeds(source: Path, folder: Path) -> None:
    """Copy the vectors of the vocabulary, which take longer than all pictures."""
    (folder / ".twotower").mkdir()
    (tag_embeds,) = (source / ".twotower").glob("tags-*.npz")
    shutil.copy(tag_embeds, folder / ".twotower")


def wait_for_pictures(url: str, count: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        # while the first pictures are being indexed, there is no model to describe yet
        with (
            contextlib.suppress(urllib.error.HTTPError),
            urllib.request.urlopen(f"{url}/api/library") as answer,
        ):
            if json.load(answer)["pictures"] == count:
                return
        time.sleep(0.3)
    raise AssertionError("not indexed")


@pytest.fixture(scope="module")
def library(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a library that clients may change."""
    folder = tmp_path_factory.mktemp("page") / "photos"
    count = make_library(folder)
    copy_tag_embeds(photos, folder)
    with running_server([str(folder), "--model", "small", "--allow-writes"]) as url:
        wait_for_pictures(url, count)
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here")
    assert CHROMIUM, "no Chromium here"
    with sync_api.sync_playwright() as playwright:
        process = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield process
        process.close()


class Visitor:
    """A person's browser window; what must not happen on any page is collected.

    Attributes:
        problems: errors of scripts, of the console, and violations of the CSP.
        foreign: addresses of other origins that were requested.
    """

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = url
        self.problems: list[str] = []
        self.foreign: list[str] = []
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, **options}
        )
        self.context.set_default_timeout(SECONDS)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note_message)
        self.page.on("request", self._note_request)

    def open(self, address: str = "/") -> Any:
        """Open an address and wait until its pictures or its message are there."""
        self.page.goto(self.url + address)
        self.page.wait_for_selector(".tile.loaded, .state, .review-card, .duplicate")
        return self.page

    def search(self, query: str) -> None:
        """Type a query and wait for its result."""
        self.page.fill("#search", query)
        self.page.wait_for_function(
            "query => document.querySelector('.photos')?.dataset.query === query", arg=query
        )

    def count(self, selector: str) -> int:
        number: int = self.page.locator(selector).count()
        return number

    def _note_message(self, message: Any) -> None:
        # answers with an error are tested for what the page makes of them
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.problems.append(message.text)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)


@pytest.fixture
def visitor(browser: Any, library: str) -> Iterator[Visitor]:
    yield from visit(browser, library)


def visit(browser: Any, url: str, **options: Any) -> Iterator[Visitor]:
    visitor = Visitor(browser, url, **options)
    yield visitor
    visitor.context.close()
    assert visitor.problems == []
    assert visitor.foreign == []


def first_name(page: Any) -> str:
    label: str = page.locator(".tile a").first.get_attribute("aria-label")
    return label.split(",")[0]


# --- searching -----------------------------------------------------------------------------------


def test_all_pictures_are_shown_by_month(visitor: Visitor) -> None:
    page = visitor.open()
    assert page.inner_text(".summary").startswith("15 pictures")
    assert "2023" in page.inner_text(".grid-headers")
    assert visitor.count(".tile") == 15


def test_results_appear_while_typing(visitor: Visitor) -> None:
    page = visitor.open()
    page.locator("#search").press_sequentially("a dog", delay=40)
    page.wait_for_selector(".photos[data-query='a dog'] .tile.loaded")
    page.wait_for_selector(".summary:has-text('match')")
    assert visitor.count(".tile:not(.near)") >= 1
    assert page.locator(".chip-text").first.inner_text() == "a dog"
    assert "q=a+dog" in page.url


def test_matches_lie_above_a_line_and_the_nearest_below(visitor: Visitor) -> None:
    page = visitor.open("/?q=dog")
    page.wait_for_selector(".tile.near")
    line = page.locator(".near-header").bounding_box()
    matches = page.locator(".tile:not(.near)").all()
    assert matches and all(tile.bounding_box()["y"] < line["y"] for tile in matches)
    assert all(tile.bounding_box()["y"] > line["y"] for tile in page.locator(".tile.near").all())


def test_nothing_like_it_is_said_in_words(visitor: Visitor) -> None:
    page = visitor.open("/?q=a+brain+scan")
    page.wait_for_selector("text=/no picture matches/i")
    assert visitor.count(".tile:not(.near)") == 0


def test_everything_below_the_line_can_be_listed(visitor: Visitor) -> None:
    page = visitor.open("/?q=dog")
    page.click("text=Show all, nearest first")
    page.wait_for_function("() => document.querySelectorAll('.tile').length === 15")
    assert "all=1" in page.url


def test_back_and_links_restore_a_search(visitor: Visitor) -> None:
    page = visitor.open()
    visitor.search("a dog")
    page.keyboard.press("Enter")
    visitor.search("a bus")
    page.keyboard.press("Enter")
    page.go_back()
    page.wait_for_selector(".photos[data-query='a dog']")
    assert page.input_value("#search") == "a dog"
    page.go_back()
    page.wait_for_selector(".photos[data-query='']")
    page.go_forward()
    page.wait_for_selector(".photos[data-query='a dog']")


def test_a_query_that_makes_no_sense_keeps_what_was_shown(visitor: Visitor) -> None:
    page = visitor.open("/?q=dog")
    page.fill("#search", "dog fol:trips")
    page.wait_for_selector(".problem")
    assert "filter" in page.inner_text(".problem")
    assert visitor.count(".tile") >= 1
    page.fill("#search", "dog")
    page.wait_for_selector(".problem", state="detached")


def test_a_question_is_answered(visitor: Visitor) -> None:
    page = visitor.open("/?q=" + urllib.request.quote("how many pictures show a dog?"))
    page.wait_for_selector(".answer-text")
    assert "of 15" in page.inner_text(".answer-text")


# --- chips ---------------------------------------------------------------------------------------


def test_chips_turn_round_and_go(visitor: Visitor) -> None:
    page = visitor.open("/?q=" + urllib.request.quote('"an animal" + grass'))
    page.wait_for_selector(".chip >> nth=1")
    page.click("role=button[name=/With grass/]")
    page.wait_for_function(
        "() => new URLSearchParams(location.search).get('q').includes('- \"grass\"')"
    )
    page.wait_for_selector(".chip.negated")
    page.click("role=button[name='Remove grass']")
    page.wait_for_function("() => new URLSearchParams(location.search).get('q') === 'an animal'")
    assert page.input_value("#search") == "an animal"


def test_the_text_of_a_chip_is_edited(visitor: Visitor) -> None:
    page = visitor.open("/?q=dog")
    page.click("button.chip-text")
    page.fill(".chip-input", "horse")
    page.keyboard.press("Enter")
    page.wait_for_selector(".photos[data-query='horse']")


def test_filters_are_added_changed_and_removed(visitor: Visitor) -> None:
    page = visitor.open()
    page.click(".chip.add")
    page.click(".menu-item:has-text('Orientation')")
    page.select_option(".filter-form select", "portrait")
    page.click(".filter-form button")
    page.wait_for_selector(".photos[data-query='orientation:portrait']")
    page.click(".chip.filter .chip-text")
    page.select_option(".filter-form select", "landscape")
    page.click(".filter-form button")
    page.wait_for_selector(".photos[data-query='orientation:landscape']")
    page.click("role=button[name=/Remove Orientation/]")
    page.wait_for_selector(".photos[data-query='']")


# --- pictures as queries -------------------------------------------------------------------------

TRANSFER = """
([content, type]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "picture.jpg", {type: "image/jpeg"}));
  const options = {bubbles: true, cancelable: true};
  if (type === "paste") {
    document.dispatchEvent(new ClipboardEvent("paste", {...options, clipboardData: transfer}));
  } else {
    for (const name of ["dragenter", "dragover", "drop"]) {
      document.body.dispatchEvent(new DragEvent(name, {...options, dataTransfer: transfer}));
    }
  }
}
"""


@pytest.mark.parametrize("gesture", ["drop", "paste"])
def test_a_picture_is_searched_by(visitor: Visitor, gesture: str) -> None:
    page = visitor.open()
    content = base64.b64encode((PHOTOS / "dog.jpg").read_bytes()).decode()
    page.evaluate(TRANSFER, [content, gesture])
    page.wait_for_selector(".chip img")
    page.wait_for_selector(".tile.loaded")
    assert "upload=" in page.url
    assert first_name(page).startswith("dog")
    page.click("role=button[name='Remove your picture']")
    page.wait_for_function("() => !location.search.includes('upload')")


def test_a_chosen_file_that_is_no_picture_is_refused(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.open()
    (tmp_path / "text.jpg").write_text("no picture")
    page.set_input_files("input[type=file]", tmp_path / "text.jpg")
    page.wait_for_selector(".toast")
    assert "upload" not in page.url


# --- the lightbox --------------------------------------------------------------------------------


def test_keys_move_among_pictures(visitor: Visitor) -> None:
    page = visitor.open()
    page.locator(".tile a").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".lightbox .full.loaded")
    assert page.inner_text(".lightbox-place") == "2 / 15"
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text='3 / 15'")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text='1 / 15'")
    page.keyboard.press("Escape")
    page.wait_for_selector(".lightbox", state="detached")
    assert page.evaluate("document.activeElement.closest('.tile').dataset.index") == "0"
    assert "picture" not in page.url


def test_a_link_to_a_picture_opens_it(visitor: Visitor) -> None:
    page = visitor.open("/?q=dog")
    page.locator(".tile a").first.click()
    page.wait_for_selector(".lightbox .full.loaded")
    name = page.inner_text(".lightbox h1")
    address = page.url.removeprefix(visitor.url)
    page.go_back()
    page.wait_for_selector(".lightbox", state="detached")
    page.goto("about:blank")
    visitor.open(address)
    page.wait_for_selector(".lightbox .full.loaded")
    assert page.inner_text(".lightbox h1") == name
    page.keyboard.press("Escape")
    page.wait_for_selector(".lightbox", state="detached")
    assert "q=dog" in page.url


def test_a_picture_that_is_not_there_is_named_so(visitor: Visitor) -> None:
    page = visitor.open("/?picture=999999")
    page.wait_for_selector("text=Picture not available")


def test_the_heat_map_lies_over_the_picture(visitor: Visitor) -> None:
    page = visitor.open("/?q=dog")
    page.locator(".tile a").first.click()
    page.wait_for_selector(".lightbox .full.loaded")
    page.keyboard.press("h")
    page.wait_for_selector(".lightbox .heat")
    assert page.locator(".heat").bounding_box() == page.locator(".full").bounding_box()
    assert page.input_value(".heat-form input") == "dog"
    assert page.inner_text(".heat-form output").endswith("%")
    page.keyboard.press("h")
    assert visitor.count(".heat") == 0


def test_a_picture_is_asked(visitor: Visitor) -> None:
    page = visitor.open("/?q=dog")
    page.locator(".tile a").first.click()
    page.wait_for_selector(".lightbox .full.loaded")
    page.keyboard.press("a")
    page.keyboard.type("what animal is this?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".details .answer-text")
    assert "dog" in page.inner_text(".details .answer-body")


def test_facts_tags_and_similar_pictures(visitor: Visitor) -> None:
    page = visitor.open("/?q=cat")
    page.locator(".tile a").first.click()
    page.wait_for_selector(".lightbox .full.loaded")
    page.keyboard.press("i")
    assert "640 × 640" in page.inner_text(".facts") and "2023" in page.inner_text(".facts")
    page.keyboard.press("t")
    page.wait_for_selector(".tag")
    page.keyboard.press("Escape")  # leaves the field, not the picture
    assert visitor.count(".lightbox") == 1
    page.keyboard.press("s")
    page.wait_for_selector(".chip:has-text('like cat.jpg')")
    assert "similar=" in page.url and visitor.count(".lightbox") == 0


def test_help_names_the_keys(visitor: Visitor) -> None:
    page = visitor.open()
    page.keyboard.press("?")
    assert "heat map" in page.inner_text(".help")
    page.keyboard.press("Escape")
    page.wait_for_selector(".help", state="detached")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


# --- reviews -------------------------------------------------------------------------------------


def verdicts_of(visitor: Visitor, picture: int) -> dict[str, bool]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{visitor.url}/api/pictures/{picture}") as answer:
            details = json.load(answer)
        if details["tags_ready"]:
            break
    return {
        entry["tag"]: entry["verdict"] for entry in details["tags"] if entry["verdict"] is not None
    }


def test_tags_are_accepted_rejected_and_undone_by_keys(visitor: Visitor) -> None:
    page = visitor.open("/?view=tags")
    with urllib.request.urlopen(f"{visitor.url}/api/tags/review?limit=1") as answer:
        (entry,) = json.load(answer)
    tag, pictures = entry["tag"], [picture["id"] for picture in entry["pictures"]]
    with page.expect_response("**/api/tags/verdicts"):
        page.keyboard.press("a")
    with page.expect_response("**/api/tags/verdicts"):
        page.keyboard.press("r")
    assert visitor.count(".review-card.accepted") == 1
    assert visitor.count(".review-card.rejected") == 1
    assert verdicts_of(visitor, pictures[0])[tag] is True
    assert verdicts_of(visitor, pictures[1])[tag] is False
    with page.expect_response("**/api/tags/undo"):
        page.keyboard.press("u")
    page.wait_for_function("() => !document.querySelector('.review-card.rejected')")
    assert tag not in verdicts_of(visitor, pictures[1])
    with page.expect_response("**/api/tags/undo"):
        page.click("button:has-text('Undo')")
    assert tag not in verdicts_of(visitor, pictures[0])


def test_a_picture_under_review_is_opened_and_the_verdicts_stay(visitor: Visitor) -> None:
    page = visitor.open("/?view=tags")
    with page.expect_response("**/api/tags/verdicts"):
        page.locator(".accept").first.click()
    page.locator(".review-picture").first.click()
    page.wait_for_selector(".lightbox .full.loaded")
    page.keyboard.press("Escape")
    page.wait_for_selector(".lightbox", state="detached")
    assert visitor.count(".review-card.accepted") == 1
    with page.expect_response("**/api/tags/undo"):
        page.keyboard.press("u")
    page.wait_for_function("() => !document.querySelector('.review-card.accepted')")


def test_duplicates_are_compared_and_their_paths_copied(browser: Any, library: str) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    for visitor in visit(browser, library, permissions=permissions):
        page = visitor.open("/?view=duplicates")
        largest = page.locator(".duplicate", has_text="largest")
        assert "dog.jpg" in largest.inner_text()
        assert not largest.locator("input").is_checked()
        page.click("button:has-text('Copy the paths')")
        page.wait_for_selector(".toast")
        assert page.evaluate("navigator.clipboard.readText()") == "dog small.jpg"
        page.locator(".duplicate", has_text="dog small.jpg").locator("input").uncheck()
        assert page.is_disabled("button:has-text('Copy the paths')")


# --- forms of the page ---------------------------------------------------------------------------


def test_the_theme_follows_the_system_and_the_switch(browser: Any, library: str) -> None:
    background = "getComputedStyle(document.body.parentElement).backgroundColor"
    for visitor in visit(browser, library, color_scheme="dark"):
        page = visitor.open()
        dark = page.evaluate(background)
        page.click("role=button[name='Use the light theme']")
        light = page.evaluate(background)
        assert light != dark
        page.reload()
        page.wait_for_selector(".tile.loaded")
        assert page.evaluate(background) == light
        page.click("role=button[name='Use the dark theme']")
        assert page.evaluate(background) == dark


@pytest.mark.parametrize("address", ["/", "/?q=dog", "/?view=tags", "/?view=duplicates"])
def test_a_phone_shows_everything_in_its_width(browser: Any, library: str, address: str) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    for visitor in visit(browser, library, **phone):
        page = visitor.open(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        bar = page.locator(".views").bounding_box()
        assert bar["y"] + bar["height"] >= 735
        assert page.locator("#search").bounding_box()["y"] < 60


def test_a_phone_swipes_and_opens_facts(browser: Any, library: str) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    for visitor in visit(browser, library, **phone):
        page = visitor.open()
        page.locator(".tile a").first.tap()
        page.wait_for_selector(".lightbox .full.loaded")
        page.evaluate(
            """() => {
              const stage = document.querySelector(".lightbox-stage");
              const touch = {pointerType: "touch", isPrimary: true, bubbles: true, clientY: 400};
              stage.dispatchEvent(new PointerEvent("pointerdown", {...touch, clientX: 300}));
              stage.dispatchEvent(new PointerEvent("pointerup", {...touch, clientX: 60}));
            }"""
        )
        page.wait_for_selector("text='2 / 15'")
        page.click("role=button[name='Facts']")
        page.wait_for_selector(".facts dt")


# --- states --------------------------------------------------------------------------------------


def test_an_error_can_be_tried_again(visitor: Visitor) -> None:
    failing = {"body": '{"error": {"message": "no luck"}}', "status": 500}
    for path in ("**/api/layout*", "**/api/search*"):
        visitor.context.route(path, lambda route: route.fulfill(**failing))
    page = visitor.open("/?q=dog")
    assert "No luck." in page.inner_text(".state")
    for path in ("**/api/layout*", "**/api/search*"):
        visitor.context.unroute(path)
    page.click("text=Try again")
    page.wait_for_selector(".tile.loaded")


def test_a_lost_connection_is_found_again(visitor: Visitor) -> None:
    page = visitor.open()
    visitor.context.set_offline(True)
    page.fill("#search", "dog")
    page.wait_for_selector("text=No connection to the server")
    visitor.context.set_offline(False)
    page.wait_for_selector(".photos[data-query='dog'] .tile.loaded")


def test_models_alone_have_no_library(browser: Any, models_url: str) -> None:
    for visitor in visit(browser, models_url):
        assert "no library" in visitor.open().inner_text(".state")


def test_an_empty_folder_can_be_indexed(browser: Any, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    copy_tag_embeds(photos, folder)
    with running_server([str(folder), "--model", "small", "--allow-writes"]) as url:
        for visitor in visit(browser, url):
            page = visitor.open()
            page.wait_for_selector("text=No pictures yet")
            shutil.copy(PHOTOS / "cat.jpg", folder)
            page.click("text=Index now")
            page.wait_for_selector(".tile.loaded")


def test_a_key_is_asked_for_once(browser: Any, own_photos: Path) -> None:
    options = [str(own_photos), "--no-allow-writes"]
    with running_server(options, {"TWOTOWER_SERVE_API_KEY": KEY}) as url:
        for visitor in visit(browser, url):
            page = visitor.open("/?q=airplane")
            page.fill("input[type=password]", "a wrong one")
            page.click("button:has-text('Open')")
            page.wait_for_selector(".problem")
            page.fill("input[type=password]", KEY)
            page.click("button:has-text('Open')")
            page.wait_for_selector(".tile.loaded")
            visitor.open("/?view=tags")  # verdicts are off
            page.wait_for_selector("text=This server only reads")
            assert page.locator(".accept").first.is_disabled()


# --- accessibility -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    npm = shutil.which("npm")
    if npm is None and not os.environ.get("CI"):
        pytest.skip("no npm here")
    assert npm, "no npm here"
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4"]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    source = folder / "node_modules" / "axe-core" / "axe.min.js"
    return source.read_text(encoding="utf-8")


def open_lightbox(visitor: Visitor) -> None:
    visitor.page.locator(".tile a").first.click()
    visitor.page.wait_for_selector(".lightbox .full.loaded")
    visitor.page.keyboard.press("i")


def open_filter(visitor: Visitor) -> None:
    visitor.page.click(".chip.add")
    visitor.page.click(".menu-item >> nth=0")


def open_help(visitor: Visitor) -> None:
    visitor.page.keyboard.press("?")


VIEWS = {
    "all pictures": ("/", None),
    "matches": ("/?q=" + urllib.request.quote('"an animal" - grass'), None),
    "no match": ("/?q=a+brain+scan", None),
    "filter": ("/?q=dog", open_filter),
    "lightbox": ("/?q=dog", open_lightbox),
    "tags": ("/?view=tags", None),
    "duplicates": ("/?view=duplicates", None),
    "help": ("/", open_help),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(
    browser: Any, library: str, axe: str, view: str, scheme: str
) -> None:
    address, prepare = VIEWS[view]
    for visitor in visit(browser, library, color_scheme=scheme, reduced_motion="reduce"):
        page = visitor.open(address)
        if prepare:
            prepare(visitor)
        page.wait_for_timeout(300)
        page.evaluate(axe)
        result = page.evaluate("axe.run()")
        serious = [
            (violation["id"], node["html"], node["failureSummary"])
            for violation in result["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
        assert serious == []
