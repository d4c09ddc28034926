"""The site has every page of the manual, and loads nothing from elsewhere; `make site` checks its links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(nav: Any) -> list[str]:
    """The pages of a menu, from top to bottom."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_every_page_is_in_the_menu_once() -> None:
    assert sorted(pages(SITE["nav"])) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_no_font_is_fetched() -> None:
    assert SITE["theme"]["font"] is False


@pytest.mark.parametrize("name", re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE))
def test_the_reference_names_what_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert attribute in vars(importlib.import_module(module))


def test_links_out_of_the_manual_are_text_on_the_site() -> None:
    spec = importlib.util.spec_from_file_location("site_links", ROOT / "docs" / "site_links.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    assert hook.on_page_markdown("see [A](../a.md#b), [B](b.md)") == "see A, [B](b.md)"
