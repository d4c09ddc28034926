"""Every promise of the manual names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MANUAL = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(?:tests/)?([\w/]+\.py)(?:::(\w+))?`", MANUAL)
PROMISES = [line for line in MANUAL.splitlines() if line.startswith("| ") and not line.startswith("| promise")]


def test_every_promise_is_held_by_some_test() -> None:
    held = [line for line in PROMISES if re.search(r"`[\w/]*test_\w+\.py|the same;", line)]
    assert held == PROMISES
    assert len(PROMISES) > 15


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[f"{file}::{name}" for file, name in NAMED])
def test_the_test_that_is_named_is_there(file: str, name: str) -> None:
    found = [TESTS / file] if "/" in file else list(TESTS.rglob(file))
    texts = [path.read_text(encoding="utf-8") for path in found if path.is_file()]
    assert texts
    assert not name or any(f"def {name}(" in text for text in texts)
