"""The page on code of one's own: its examples are checked as they stand there, and hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeper.check import check_sweep
from sweeper.planning.plan import expand
from sweeper.spec import loads_spec

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every module of the page, under the name in its first line."""
    for code in blocks("python"):
        name = re.match(r"# (\w+\.py), next to the spec\n", code)
        assert name is not None
        (tmp_path / name[1]).write_text(code)
    return tmp_path


@pytest.mark.parametrize("text", blocks("yaml"))
def test_an_example_keeps_every_promise(folder: Path, text: str) -> None:
    sweep = loads_spec(text, folder=folder)
    found = list(check_sweep(sweep))
    assert [one for one in found if not one.finding.holds] == []
    own = re.search(r"my_\w+:\w+", text)
    assert own is not None
    assert any(own[0] in f"{one.problem} {one.finding.promise}" for one in found)


def test_the_arm_and_the_words_of_check_are_those_that_the_page_quotes(folder: Path) -> None:
    schedule, transform, _ = (loads_spec(text, folder=folder) for text in blocks("yaml"))
    assert expand(schedule).arms == ("sgd + schedule(my_rules:cosine_with_restarts)",)
    assert "`schedule(my_rules:cosine_with_restarts)`" in PAGE
    assert expand(transform).arms == ("sgd", "sgd + clip_norm", "sgd + my_clip:soft_clip")
    (quoted,) = blocks("text")
    (told,) = [one for one in check_sweep(transform) if "the factor by which the norm" in one.finding.promise]
    assert quoted.splitlines()[0] == told.problem
    assert quoted.splitlines()[1] == f"  ok      {told.finding.promise}"
    assert quoted.splitlines()[2] == f"          note:  {told.finding.note}"
