"""Fill HTML templates: values are escaped, and inserted in one pass."""

from __future__ import annotations

import html
import json
import re
import string
from collections.abc import Mapping
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")


class Html(str):
    """Text that is HTML already, which `render` inserts as it is."""

    __slots__ = ()


def render(template: str, values: Mapping[str, str]) -> Html:
    """Replace each `$name` of a template by `values["name"]`, escaped unless it is `Html`.

    A `$` in a value is never replaced.

    Raises:
        KeyError: the template has a name without a value.
    """
    escaped = {name: _escaped(value) for name, value in values.items()}
    return Html(string.Template(template).substitute(escaped))


def escape_html(text: str) -> Html:
    """Escape text for HTML; bytes of a file name that are not text become U+FFFD."""
    return Html(html.escape(_SURROGATES.sub("\ufffd", text)))


def script_json(tree: Any) -> Html:
    """Return a tree as JSON for a `<script>`, which no string in it can close."""
    return Html(json.dumps(tree).replace("<", "\\u003c"))


def _escaped(value: str) -> str:
    return value if isinstance(value, Html) else escape_html(value)
