"""A library of the example photographs, searched with the bundled model."""

import os
import shutil
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twotower
from tests.index.test_index import write_dng
from twotower.calibration.calibration import read_calibration
from twotower.calibration.curves import embed_queries
from twotower.calibration.fit import altered_copies
from twotower.errors import PictureError, QueryError
from twotower.library import Library
from twotower.pages.contact_sheet import write_contact_sheet
from twotower.progress import Progress
from twotower.search.duplicates import _connected
from twotower.search.query import Query, Term
from twotower.search.ranking import COSINE_WEIGHT, group_copies
from twotower.search.search import NEAR_HITS, NEAR_SHARE

NormalForm: TypeAlias = Literal["NFC", "NFD"]
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def make_library(root: Path) -> Library:
    library = Library(root)
    library.index()
    return library


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """The 50 examples in two folders, three of them with dates, and two copies of the cat."""
    root = tmp_path_factory.mktemp("photos")
    (root / "trips").mkdir()
    for number, path in enumerate(sorted(PHOTOS.glob("*.*"))):
        if path.suffix in (".csv", ".md"):
            continue
        folder = root / "trips" if number % 2 else root
        shutil.copy(path, folder / f"p{number:02}{path.suffix}")
        NAMES[path.stem] = folder / f"p{number:02}{path.suffix}"
    for name, day in (("cat", "01"), ("dog", "02")):
        date_picture(NAMES[name], f"2021:06:{day} 12:00:00")
    [small] = altered_copies([NAMES["cat"].read_bytes()])
    shutil.copy(PHOTOS / "cat.jpg", root / "small cat.jpg")
    date_picture(root / "small cat.jpg", "2021:06:03 12:00:00")
    (root / "smaller.jpg").write_bytes(small)
    library = make_library(root)
    yield library
    library.close()


NAMES: dict[str, Path] = {}


def date_picture(path: Path, taken: str) -> None:
    with PIL.Image.open(path) as image:
        image.load()
        exif = image.getexif()
        exif.get_ifd(0x8769)[0x9003] = taken
        image.save(path, exif=exif, quality=95)


ABSENT = (
    *("a brain scan", "a periodic table", "a tax form", "a sheet of music", "a chess board"),
    *("a dentist at work", "a tennis match", "a washing machine", "a bar chart", "a crossword"),
    *("a polar bear", "a bowl of noodles", "a submarine", "a basketball game", "an x-ray"),
    *("a shark", "a toothbrush", "a computer keyboard", "a pizza", "a baby in a bath"),
)


def test_words_find_the_picture(photos: Library) -> None:
    answer = photos.search("a cat", group=False)
    assert answer.matches >= 2
    assert NAMES["cat"] in [hit.path for hit in answer.hits[:3]]
    best = answer[0]
    assert best.match and best.probability >= answer.cutoff
    assert -1 <= best.score <= 1


def test_a_parsed_query_gives_the_same_result(photos: Library) -> None:
    text = 'small - "a dog" type:jpeg'
    assert photos.search(photos.parse(text)) == photos.search(text)


def test_a_new_library_parses_before_it_is_indexed(tmp_path: Path) -> None:
    shutil.copy(PHOTOS / "cat.jpg", tmp_path / "inside.jpg")
    library = Library(tmp_path)
    assert library.parse("+inside.jpg").terms == (Term(picture=tmp_path / "inside.jpg"),)
    with pytest.raises(QueryError, match=r"nowhere\.jpg: no such file"):
        library.parse("a cat + nowhere.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["inside.jpg"]
    assert not library.exists


def test_queries_for_absent_things_find_nothing(photos: Library) -> None:
    """For three of four at least; benchmarks/quality/calibration.py measures the share."""
    unmatched = [words for words in ABSENT if not len(photos.search(words))]
    assert len(unmatched) >= 0.75 * len(ABSENT), set(ABSENT) - set(unmatched)


def test_only_all_lists_hits_below_the_cutoff(photos: Library) -> None:
    matching = photos.search("a big city at night", top=100)
    everything = photos.search("a big city at night", top=100, all=True, group=False)
    assert len(everything) == len(photos.catalog)
    assert len(matching) < len(everything)
    assert matching.matches == everything.matches == sum(hit.match for hit in everything)
    for hit in everything:
        assert hit.match == (hit.probability >= everything.cutoff)
    matches = [hit.match for hit in everything]
    assert matches == sorted(matches, reverse=True)
    below = [hit for hit in everything if not hit.match]
    relevance = [np.log(hit.probability) + COSINE_WEIGHT * hit.score for hit in below]
    assert relevance == sorted(relevance, reverse=True)


def test_the_nearest_below_the_cutoff_follow_the_last_match(
    photos: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "a cat"
    everything = list(photos.search(query, top=100, all=True))
    below = [hit.path for hit in everything if not hit.match]
    monkeypatch.setattr("twotower.search.search.NEAR_SHARE", 1e-9)
    result = photos.search(query)
    assert len(result.hits) == result.groups and all(hit.match for hit in result)
    assert [hit.path for hit in result.near] == below[:NEAR_HITS]
    assert not any(hit.match for hit in result.near)
    assert photos.search(query, all=True).near == []
    assert [hit.path for hit in photos.search(query, sort="date").near] == below[:NEAR_HITS]

    count = result.groups
    assert photos.search(query, top=count).near == [], "the page is full"
    assert len(photos.search(query, top=count + 2).near) == 2
    assert photos.search(query, top=count, offset=count).near == [], "the matches ended before"
    assert len(photos.search("a periodic table").near) == NEAR_HITS


def test_only_pictures_that_come_near_are_named(photos: Library) -> None:
    for words in ("a big city at night", "a dog", "water", "a periodic table"):
        result = photos.search(words)
        assert result.cutoff is not None
        lowest = NEAR_SHARE * result.cutoff
        assert all(lowest <= hit.probability < result.cutoff for hit in result.near)


def test_pages_add_up_to_all_hits(photos: Library) -> None:
    whole = photos.search("an animal", top=53, all=True, group=False)
    pages = [
        hit
        for offset in range(0, 52, 10)
        for hit in photos.search("an animal", top=10, offset=offset, all=True, group=False)
    ]
    assert pages == list(whole)


def test_probabilities_come_from_the_calibration(photos: Library) -> None:
    calibration = read_calibration(photos.model)
    assert calibration is not None
    answer = photos.search("a horse", top=53, all=True, group=False)
    query = embed_queries(photos.model, ["a horse"])[0]
    text = calibration.text.prepare(["a horse"], query)
    for hit in answer.hits[:5]:
        embeds = photos.model.encode_image(hit.path)
        [[logit]] = calibration.text.logits([text], embeds)
        assert hit.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-3)
        assert hit.score == pytest.approx(float(embeds[0] @ query), abs=1e-3)


def test_minus_lowers_probabilities(photos: Library) -> None:
    """Most of all that of the cat, if animals without cats are searched."""
    plain = photos.search("an animal", top=53, all=True, group=False)
    minus = photos.search('"an animal" - "a cat"', top=53, all=True, group=False)
    before = [hit.path for hit in plain].index(NAMES["cat"])
    after = [hit.path for hit in minus].index(NAMES["cat"])
    assert after > before
    by_path = {hit.path: hit.probability for hit in plain}
    for hit in minus:
        assert hit.probability <= by_path[hit.path] + 1e-9


def test_probabilities_of_two_terms_are_multiplied(photos: Library) -> None:
    joint = photos.search('"a dog" + "grass"', top=53, all=True, group=False)
    dogs = {h.path: h for h in photos.search("a dog", top=53, all=True, group=False)}
    grass = {h.path: h for h in photos.search("grass", top=53, all=True, group=False)}
    for hit in joint:
        product = dogs[hit.path].probability * grass[hit.path].probability
        assert hit.probability == pytest.approx(product, rel=1e-3)
        assert hit.match == (dogs[hit.path].match and grass[hit.path].match)


def test_filters_limit_the_hits(photos: Library) -> None:
    everything = photos.search("folder:trips", top=100)
    assert everything.matches == len(everything) == 25
    assert all(hit.path.parent.name == "trips" for hit in everything)
    filtered = photos.search("an animal folder:trips", top=100, all=True, group=False)
    assert {hit.path for hit in filtered} == {hit.path for hit in everything}
    assert photos.search("after:2021-06-02 before:2021-06-03")[0].path == NAMES["dog"]
    undated = len(photos.catalog) - 3
    assert photos.search("after:2021-06-02").left_out == {"date": undated}
    in_trips = len(photos.search("folder:trips", group=False, top=100))
    left_out = photos.search("a cat near:1,1,5km folder:trips").left_out
    assert left_out == {"place": in_trips} and photos.search("a cat").left_out == {}
    assert photos.search("type:avif")[0].path == NAMES["desert"]
    assert photos.search("an animal type:heic").matches == 0


def test_sort_by_date_keeps_matches_before_the_others(photos: Library) -> None:
    answer = photos.search("a cat", top=53, all=True, group=False, sort="date")
    matches = [hit.match for hit in answer]
    assert matches == sorted(matches, reverse=True)
    dates = [hit.taken for hit in answer if hit.match and hit.taken]
    assert dates == sorted(dates, reverse=True)
    assert [hit.path.name for hit in answer][:2] == ["small cat.jpg", NAMES["cat"].name]
    assert answer[-1].probability < 0.1, "the others by relevance"


def test_copies_are_listed_with_the_best_hit(photos: Library) -> None:
    grouped = photos.search("a cat", top=3, all=True)
    apart = photos.search("a cat", top=53, all=True, group=False)
    assert grouped.matches == apart.matches
    assert {NAMES["cat"], photos.root / "small cat.jpg"} <= {grouped[0].path, *grouped[0].copies}
    assert len(grouped) == 3


def test_pages_of_groups_add_up_to_all_groups(photos: Library) -> None:
    whole = photos.search("an animal", top=53, all=True)
    assert whole.groups == len(whole) < len(photos.catalog)
    pages = [
        hit
        for offset in range(0, whole.groups, 10)
        for hit in photos.search("an animal", top=10, offset=offset, all=True)
    ]
    assert pages == list(whole)
    assert photos.search("folder:trips", top=3).groups == 25


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 9))
def test_groups_of_equal_vectors(contents: list[int], window: int) -> None:
    """A vector joins the group of an equal one, unless that is two windows before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twotower.search.ranking.COPY_WINDOW", window)
        groups = group_copies(np.arange(len(contents)), np.eye(6, dtype=np.float32)[contents], 0.9)
    assert sorted(row for group in groups for row in group) == list(range(len(contents)))
    for group in groups:
        assert len({contents[row] for row in group}) == 1
        assert group == sorted(group)
    leaders = [group[0] for group in groups]
    assert leaders == sorted(leaders)
    for best in leaders:
        before = contents[max(0, (best // window - 1) * window) : best]
        assert contents[best] not in before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top=0, offset=0: ask for 1 hit or more"),
        ({"top": -3}, "top=-3"),
        ({"offset": -1}, "offset=-1"),
        ({"sort": "banana"}, "sort='banana' is none of relevance, date"),
    ],
)
def test_options_out_of_range_are_refused(
    photos: Library, options: dict[str, Any], message: str
) -> None:
    for query in ("a cat", "type:jpeg"):
        with pytest.raises(ValueError, match=message):
            photos.search(query, **options)


def test_names_of_files_match_too(photos: Library) -> None:
    answer = photos.search("smaller")
    assert [hit.path.name for hit in answer if hit.named] == ["smaller.jpg"]
    assert answer.matches >= 1
    hits = [hit for hit in photos.search("small cat") if hit.named]
    assert [hit.path.name for hit in hits] == ["small cat.jpg"]
    assert not any(hit.named for hit in photos.search('small - "a dog"', all=True))


def test_similar_to_a_picture_of_the_library(photos: Library) -> None:
    answer = photos.similar(NAMES["cat"], all=True)
    assert NAMES["cat"] not in [hit.path for hit in answer]
    assert answer[0].path.name == "small cat.jpg"
    assert answer[0].score > 0.99
    by_search = photos.search(str(NAMES["cat"]), all=True, group=False)
    assert by_search[0].path == answer[0].path


def test_similar_to_a_picture_outside_the_library(photos: Library, tmp_path: Path) -> None:
    shutil.copy(PHOTOS / "dog.jpg", tmp_path / "mine.jpg")
    answer = photos.similar(tmp_path / "mine.jpg", all=True)
    assert answer[0].path == NAMES["dog"]
    with pytest.raises(QueryError, match=r"nowhere\.jpg: no such file"):
        photos.similar("nowhere.jpg")


def test_a_copy_is_the_best_match(photos: Library, tmp_path: Path) -> None:
    for name, original in NAMES.items():
        elsewhere = tmp_path / f"{name}{original.suffix}"
        shutil.copy(original, elsewhere)
        answer = photos.similar(elsewhere)
        assert answer[0].match and answer[0].score > 0.999, name
        assert original in [hit.path for hit in answer if hit.score > 0.999], name


def write_video(path: Path, image: PIL.Image.Image) -> None:
    av = pytest.importorskip("av", reason="pip install 'twotower[video]'")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = image.size
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def test_videos_and_raw_files_are_queries_too(tmp_path: Path) -> None:
    """In the library by their stored vectors, and outside by embedding them in the same way."""
    pytest.importorskip("rawpy", reason="pip install 'twotower[raw]'")
    root, elsewhere = tmp_path / "library", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    with PIL.Image.open(PHOTOS / "cat.jpg") as image:
        cat = image.convert("RGB").resize((320, 240))
    write_video(root / "a.mp4", cat)
    write_dng(root / "b.DNG", cat)
    for name in ("cat.jpg", "dog.jpg"):
        shutil.copy(PHOTOS / name, root)
    library = make_library(root)
    for name in ("a.mp4", "b.DNG"):
        shutil.copy(root / name, elsewhere)
        inside = library.similar(root / name, all=True)
        assert root / name not in {hit.path for hit in inside}
        assert len(inside) == 3 and inside[-1].path.name == "dog.jpg"
        [best, *_] = library.similar(elsewhere / name, all=True)
        assert best.path == root / name
        assert best.score == pytest.approx(1, abs=1e-5)
        named = library.search(f"+{elsewhere / name} - dog.jpg", all=True)
        assert named[0].path != root / "dog.jpg"
    (elsewhere / "c.mp4").write_bytes(b"no video")
    with pytest.raises(PictureError, match=r"c\.mp4: not a video that can be decoded.*convert it"):
        library.similar(elsewhere / "c.mp4")
    library.close()


def test_long_tasks_report_progress(photos: Library, tmp_path: Path) -> None:
    steps: list[Progress] = []
    photos.duplicates(report=steps.append)
    assert [(step.done, step.total) for step in steps] == [(1, 1)]
    steps.clear()
    result = photos.search("a cat", all=True, top=3)
    write_contact_sheet(result, 3, tmp_path / "sheet.html", steps.append)
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]


def test_duplicates_are_grouped(photos: Library) -> None:
    groups = photos.duplicates()
    [cats] = [group for group in groups if NAMES["cat"] in [hit.path for hit in group]]
    assert photos.root / "small cat.jpg" in [hit.path for hit in cats]
    sizes = [hit.path.stat().st_size for hit in cats]
    assert sizes == sorted(sizes, reverse=True)
    assert len(groups) < 4, "the others differ"


@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), max_size=30),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(3, 9),
)
def test_linked_vectors_equal_the_transitive_closure(
    rows: list[tuple[int, ...]], block: int, strip: int, least: int
) -> None:
    """With integers, whose products are exact."""
    embeds = np.array(rows, np.float32).reshape(-1, 3)
    linked = embeds @ embeds.T >= least
    np.fill_diagonal(linked, True)
    for _ in rows:  # paths of any length
        linked = linked @ linked
    expected = {tuple(np.flatnonzero(row).tolist()) for row in linked if row.sum() > 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twotower.search.duplicates.BLOCK", block)
        patch.setattr("twotower.search.duplicates.STRIP", strip)
        groups = _connected(lambda rows: embeds[rows], len(embeds), least)
    assert {tuple(group.tolist()) for group in groups} == expected
    assert len(groups) == len(expected)


def test_many_copies_are_one_group() -> None:
    embeds = np.tile(np.float32([1, 0]), (5000, 1))
    [group] = _connected(lambda rows: embeds[rows], len(embeds), 0.9)
    assert group.tolist() == list(range(5000))


def test_vectors_without_a_row_are_no_hits(photos: Library) -> None:
    vector = photos.model.encode_text(["a brain scan"])
    orphan = np.array([999_999])
    photos.vectors.add(orphan, vector)
    try:
        answer = photos.search("a brain scan", all=True, top=100, group=False)
        assert len(answer) == len(photos.catalog)
    finally:
        photos.vectors.remove(orphan)


def test_all_matches_are_found_from_few_candidates(
    photos: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = photos.search("a cat", top=100, group=False)
    monkeypatch.setattr("twotower.search.search.CANDIDATES", 2)
    few = photos.search("a cat", top=100, group=False)
    assert [hit.path for hit in few] == [hit.path for hit in whole]


def test_a_model_without_calibration_warns(tiny_directory: Path, tmp_path: Path) -> None:
    for name in ("cat.jpg", "dog.jpg", "bee.jpg", "car.jpg"):
        shutil.copy(PHOTOS / name, tmp_path)
    library = Library(tmp_path, model=tiny_directory)
    library.index()
    with pytest.warns(UserWarning, match="has no calibration.*twotower calibrate"):
        before = library.search("zebra crossing", all=True)
    assert len(before) == 4
    assert (library.location / "calibration.json").exists()
    library.close()  # so that the estimate is read from that file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = library.search("zebra crossing", all=True)
    assert after == before
    library.close()


def library_of_names(root: Path, names: Sequence[str]) -> Library:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTOS / "cat.jpg", root / name)
    return make_library(root)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_found_in_both_normal_forms(tmp_path: Path, form: NormalForm) -> None:
    """macOS stores names decomposed (NFD); people type them composed (NFC), or paste them."""
    stored = [
        unicodedata.normalize("NFD", "Z\u00fcrichsee.jpg"),
        unicodedata.normalize("NFC", "Z\u00fcrichhund.jpg"),
        unicodedata.normalize("NFD", "\uac00\uc871/Stra\u00dfe-\u00c9t\u00e9.jpg"),
    ]
    library = library_of_names(tmp_path, stored)

    def spell(text: str) -> str:
        return unicodedata.normalize(form, text)

    def names_of(query: str) -> list[str]:
        hits = library.search(spell(query), group=False)
        return [hit.path.relative_to(tmp_path).as_posix() for hit in hits if hit.named]

    assert names_of("z\u00fcrichsee") == [stored[0]]
    assert names_of("Z\u00dcRICHHUND") == [stored[1]]
    assert names_of("\u00e9t\u00e9") == names_of("STRASSE") == [stored[2]]
    in_folder = library.search(spell("folder:\uac00\uc871"))
    assert [hit.path for hit in in_folder] == [tmp_path / stored[2]]
    term = library.parse(spell("Z\u00fcrichsee.jpg")).terms[0]
    assert term.picture == tmp_path / stored[0]
    term = library.parse(spell("\uac00\uc871/Stra\u00dfe-\u00c9t\u00e9.jpg")).terms[0]
    assert term.picture == tmp_path / stored[2]
    library.close()


def test_names_that_are_not_text_are_found(tmp_path: Path) -> None:
    odd = os.fsdecode(b"gr\xfcn\nkatze.jpg")
    shutil.copy(PHOTOS / "cat.jpg", tmp_path / odd)
    library = make_library(tmp_path)
    [hit] = library.search("a cat")
    assert hit.path == tmp_path / odd
    assert [hit.named for hit in library.search("katze")] == [True]
    library.close()


def test_public_names() -> None:
    assert twotower.Library is Library
    assert twotower.Hit.__name__ == "Hit"


def test_without_a_limit_all_matches_are_listed_in_the_same_order(photos: Library) -> None:
    pages = [photos.search("animal", top=3, offset=offset) for offset in range(0, 60, 3)]
    everything = photos.search("animal", top=None)
    assert [hit.id for hit in everything.hits] == [hit.id for page in pages for hit in page.hits]
    assert len(everything.hits) == everything.groups
    assert len(photos.search("animal", top=None, all=True, group=False)) == len(photos.catalog)
    assert len(photos.search("folder:trips", top=None)) == photos.search("folder:trips").groups


def test_hits_and_their_copies_have_the_ids_of_the_catalog(photos: Library) -> None:
    for hit in (*photos.search("a cat").hits, *photos.search("type:jpeg").hits):
        paths = [photos.root / record.path for record in photos.catalog.pictures([hit.id])]
        assert paths == [hit.path]
        copies = photos.catalog.pictures(hit.copy_ids)
        assert tuple(photos.root / record.path for record in copies) == hit.copies


def test_a_picture_that_is_no_file_is_searched_by_its_vector(photos: Library) -> None:
    (cat, *_) = photos.search("a cat", group=False).hits
    embeds = photos.vectors.get(np.array([cat.id]))[0]
    query = Query("", (Term(picture=Path("upload"), image_embeds=embeds),))
    assert photos.search(query, group=False).hits[0].score == pytest.approx(1, abs=1e-3)
