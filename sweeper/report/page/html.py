"""A page as one HTML file with all that it needs inside: data, style and scripts, of which no other ones may run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweeper.errors import ClipsweepError
from sweeper.formats import json_text
from sweeper.report.page.charts import DATA
from sweeper.report.page.contents import Page

__all__ = ["render_page"]

_TEMPLATES = Path(__file__).parent / "template"

_LONG = 40
"""Characters from which a cell of a table is wrapped."""

_MOST_ROWS = 200
"""Cells that the table has without scripts, and on paper."""


def render_page(page: Page, *, made: str = "", live: str = "") -> str:
    """A page as HTML.

    Args:
        page: What it shows.
        made: When it was made, in words; empty to leave that out.
        live: Address that the page asks for its successor; empty for a file, which asks for nothing.

    Returns:
        The document. Every text is escaped, and its content security policy lets nothing run but the scripts that are
        in it, by their hashes; without ``live`` nothing can be loaded or sent, either.

    Raises:
        ClipsweepError: A library that pages are made with is missing.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:  # pragma: no cover - a broken installation
        raise ClipsweepError(f"HTML needs {error.name}: pip install {error.name}") from error
    bundle, script, style = scripts_of_charts(), _template("page.js"), _template("page.css")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["without_note"] = lambda text: text.removeprefix("note: ")
    environment.filters["long"] = lambda text: Markup(' class="long"') if len(text) > _LONG else ""
    sources = f"script-src {_hash(bundle)} {_hash(script)}; style-src {_hash(style)}"
    trusted = {"style": style, "script": script, "bundle": bundle, "data": _in_script(_document(page))}
    asks = "; connect-src 'self'" if live else ""
    text: str = environment.get_template("page.html").render(
        page=page,
        rows=(range(len(page.cells)) if page.is_sorted or len(page.cells) <= _MOST_ROWS else page.order)[:_MOST_ROWS],
        policy=f"default-src 'none'; {sources}{asks}; img-src data:; base-uri 'none'; form-action 'none'",
        version=version("clipsweep"),
        made=made,
        live=live,
        # What is markup already: our own files, the library's, and JSON in which nothing can end the element.
        **{name: Markup(text) for name, text in trusted.items()},  # nosec B704
    )
    return text.lstrip()


def _document(page: Page) -> dict[str, Any]:
    """What the scripts work on."""
    return {
        "heads": page.heads,
        "cells": page.cells,
        "keys": page.keys,
        "labels": page.labels,
        "arms": page.arms,
        "rates": page.rates,
        "best": page.best,
        "order": page.order,
        "sorted": page.is_sorted,
        "data": DATA,
        "charts": [
            {
                "name": chart.name,
                "title": chart.title,
                "columns": chart.columns,
                "specification": chart.specification,
                "brushed": chart.brushed,
            }
            for chart in page.charts
        ],
    }


def _in_script(document: Mapping[str, Any]) -> str:
    r"""JSON within an element of HTML.

    Args:
        document: What to write.

    Returns:
        JSON in which there is neither ``</script>`` nor ``<!--``.

    Example:
        >>> _in_script({"name": "</script>"})
        '{"name": "\\u003c/script\\u003e"}'
    """
    text = json_text(document, indent=None)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    """What a policy allows a text by.

    Args:
        text: A script or a style.

    Returns:
        A source that allows this text alone.

    Example:
        >>> _hash("")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def scripts_of_charts() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the package that altair takes them from.

    Returns:
        JavaScript that can stand within an element of HTML.

    Raises:
        ClipsweepError: The package is missing.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise ClipsweepError("HTML needs vl-convert-python: pip install vl-convert-python") from error
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub knows no default
    # In a string or a regular expression of JavaScript this means the same.
    return re.sub(r"</(script)", r"<\\/\1", bundle, flags=re.IGNORECASE).replace("<!--", "<\\!--")


@cache
def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
