"""A hook of MkDocs: what the manual links to outside of its folder stays text, as the site does not hold it."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page without links out of the folder.

    Args:
        markdown: The page as it is written.
        **_: What else MkDocs says of it.

    Returns:
        The page as the site has it.
    """
    return _OUTSIDE.sub(r"\1", markdown)
