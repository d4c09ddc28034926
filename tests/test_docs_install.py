"""The page on installing names the extras that there are, and the base stays without what trains."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_DEVELOPERS = {"dev", "docs", "fuzz", "audit"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


def test_every_extra_is_on_the_page() -> None:
    rows = re.findall(r"^\| ((?:`[a-z]+`(?:, )?)+) \|", PAGE, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z]+)`", row)}
    assert named == set(PROJECT["optional-dependencies"]) - OF_DEVELOPERS


def test_what_trains_is_in_an_extra_alone() -> None:
    assert names(PROJECT["optional-dependencies"]["run"]) == {"ray", "torch"}
    assert not names(PROJECT["dependencies"]) & {"ray", "torch"}


def test_every_install_that_is_shown_names_extras_that_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {
        name
        for page in pages
        for extras in re.findall(r"pip install '(?:\.|clipsweep)\[([a-z,]+)\]'", page.read_text(encoding="utf-8"))
        for name in extras.split(",")
    }
    assert {"run", "images"} <= shown <= set(PROJECT["optional-dependencies"])
