"""Settings and counts of a part while its input is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from twotower.pairs.candidates import Counts


def begin_all(position: int) -> bool:
    """Return True: read the next page."""
    return True


@dataclass
class Reading:
    """The state of reading an input.

    Attributes:
        counts: pages, candidates, and what is left out, by reason.
        keep_refused: keep the images of pages that refuse collection.
        url_column, caption_column: names in URL lists; "" to find them by usual names.
        begin_page: called before each page, feed or group of rows with its position in the input,
            in bytes; False skips it.
    """

    counts: Counts = field(default_factory=Counter)
    keep_refused: bool = False
    url_column: str = ""
    caption_column: str = ""
    begin_page: Callable[[int], bool] = begin_all
