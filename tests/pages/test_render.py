"""Templates are filled in one pass, and nothing in a value is taken for HTML or for a name."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from twotower.library import Library
from twotower.pages.render import Html, escape_html, render, script_json
from twotower.pages.review import write_review
from twotower.tagging.tagger import Tagger


def test_values_are_escaped_and_html_is_not() -> None:
    assert render("<p>$text$more</p>", {"text": '<b>&"', "more": Html("<hr>")}) == (
        "<p>&lt;b&gt;&amp;&quot;<hr></p>"
    )


def test_a_dollar_in_a_value_stays() -> None:
    values = {"name": "$data", "data": "secret $name"}
    assert render("$name: $data, 5 $$", values) == "$data: secret $name, 5 $"


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="name"):
        render("$name", {})


def test_names_that_are_no_text() -> None:
    assert escape_html("a\udcff<") == "a\ufffd&lt;"


def test_json_cannot_close_its_script() -> None:
    tree = {"name": "</script><!-- $data"}
    assert "<" not in script_json(tree)
    assert json.loads(script_json(tree)) == tree


@pytest.mark.parametrize("name", ["$data", "$library", "$learn_command", "$$", "</title>"])
def test_the_review_page_has_the_folders_name_as_its_title(name: str, tmp_path: Path) -> None:
    catalog = SimpleNamespace(pictures=lambda ids: [])
    library = cast("Any", SimpleNamespace(root=Path(name), catalog=catalog))
    file = tmp_path / "review.html"
    write_review(cast("Library", library), cast("Tagger", None), [], file, "learn from $data")
    page = file.read_text(encoding="utf-8")
    shown = escape_html(Path(name).name)
    assert f"<title>Tags of {shown}</title>" in page
    assert f"<h1>{shown}</h1>" in page
    assert "<code>learn from $data</code>" in page
    assert page.count('{"pictures": {}, "tags": []}') == 1
