"""What CONTRIBUTING.md, SECURITY.md and CITATION.cff tell people to do and to read is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sweeper.cli.app import app

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Made by the commands of the page, or standing for a name that differs.
MADE = {".venv", "dist/", "__init__.py"}


def paths_of(text: str) -> list[str]:
    """What looks like a path of this repository, in code or as a link."""
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|\.[\w.-]+|[\w-]+\.(?:md|toml|txt|py|cff))`", text)
    linked = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    in_shell = re.findall(r"python (\S+\.py)", text)
    return sorted({*named, *linked, *in_shell} - MADE)


def test_every_make_command_is_a_target() -> None:
    commands = re.findall(r"(?:`|^)make (?:[A-Z]+=\S+ )*([a-z]+)", CONTRIBUTING, flags=re.MULTILINE)
    assert {"check", "test", "fast", "chaos", "fuzz", "audit", "wheel"} <= set(commands)
    assert set(commands) <= TARGETS


@pytest.mark.parametrize("path", paths_of(CONTRIBUTING))
def test_every_path_of_the_page_on_contributing_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_marker_of_the_tests_is_explained() -> None:
    markers = [marker.partition(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    assert [marker for marker in markers if f"`{marker}`" not in CONTRIBUTING] == []


def test_the_code_that_the_page_quotes_is_in_the_code() -> None:
    quoted = re.findall(r"```python\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)
    sources = [
        path.read_text(encoding="utf-8")
        for package in ("trainers", "estimators")
        for path in ROOT.glob(f"{package}/**/*.py")
    ]
    assert len(quoted) == 2
    for block in quoted:
        lines = [line for line in block.splitlines() if line.strip()]
        assert any(all(line in source for line in lines) for source in sources)


@pytest.mark.parametrize("path", paths_of(SECURITY))
def test_every_path_of_the_page_on_security_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_option_of_the_page_on_security_is_one() -> None:
    command: Any = typer.main.get_command(app)
    known = {option for name in ("run", "plan") for given in command.commands[name].params for option in given.opts}
    options = set(re.findall(r"`(--[a-z-]+)`", SECURITY))
    assert options == {"--allow-code", "--insecure-cluster"}
    assert options <= known


def test_the_citation_has_what_its_format_requires_and_the_version_of_the_package() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= CITATION.keys()
    assert all(author.keys() & {"name", "family-names"} for author in CITATION["authors"])
    assert CITATION["version"] == PYPROJECT["project"]["version"]
    assert CITATION["license"] == PYPROJECT["project"]["license"]


def test_the_citation_names_the_paper() -> None:
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "He", "Sra", "Jadbabaie"]
    assert paper["title"].startswith("Why gradient clipping accelerates training")
    assert (paper["type"], paper["year"]) == ("conference-paper", 2020)
