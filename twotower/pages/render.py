"""Fill HTML templates with escaped values."""

from __future__ import annotations

import argparse
import html
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # the class that argparse has no public name for
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def to_html(text: str) -> str:
    """Text as HTML shows it; for bytes that are no text there is a mark."""
    return html.escape(os.fsencode(text).decode("utf-8", "replace"))
