"""The map of the code names every package there is, and nothing that is not there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = sorted(
    f"{folder.relative_to(ROOT).as_posix()}/"
    for package in ("sweeper", "trainers", "estimators")
    for folder in [ROOT / package, *(ROOT / package).rglob("*")]
    if (folder / "__init__.py").is_file()
)
PATHS = sorted(set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|py))`", PAGE)))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LAYERS = {
    contract["containers"][0].rpartition(".")[2]: contract["layers"]
    for contract in CONTRACTS
    if contract["type"] == "layers"
}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_on_the_map(package: str) -> None:
    assert f"`{package}`" in PAGE


@pytest.mark.parametrize("path", PATHS)
def test_every_path_on_the_map_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("package", LAYERS)
def test_the_arrows_are_those_of_the_contracts(package: str) -> None:
    drawn = re.search(rf"^{package}: +(.*(?:\n +->.*)*)", PAGE, flags=re.MULTILINE)
    assert drawn is not None
    assert [layer.strip() for layer in re.split(r"->", drawn[1])] == LAYERS[package]


def test_names_in_code_that_a_change_touches_are_there() -> None:
    steps = PAGE.partition("## Where to add")[2]
    names = {name for name in re.findall(r"`(_?[A-Z][A-Z_]+)`", steps) if name not in {"KIND"}}
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("sweeper", "trainers", "estimators", "tests")
        for path in (ROOT / folder).rglob("*.py")
    )
    assert [name for name in sorted(names) if not re.search(rf"^{name}\b", source, re.MULTILINE)] == []
    assert len(names) > 10
