"""The numbers of docs/theory.md and of the comments in specs/theory are those that the shipped sweeps give."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.report.theory import TheoryReport, build_theory
from sweeper.tables.run import Run

ROOT = Path(__file__).resolve().parents[3]
PAGE = " ".join((ROOT / "docs" / "theory.md").read_text(encoding="utf-8").split())


def spec(name: str) -> str:
    return (ROOT / "specs" / "theory" / f"{name}.yaml").read_text(encoding="utf-8")


def ran(inline_run: Callable[..., Any], name: str) -> TheoryReport:
    return build_theory(Run(inline_run(spec(name))().run_dir.path))


def numbers(pattern: str, text: str) -> list[float]:
    """What the groups of a pattern, which must be in the text, say in figures."""
    found = re.search(pattern, text)
    assert found is not None, pattern
    return [float(figure.replace(",", "")) for figure in found.groups()]


def test_the_bounds_leave_as_much_as_the_page_and_the_spec_say(inline_run: Callable[..., Any]) -> None:
    rows = [row for row in ran(inline_run, "bounds").rows if row.slack is not None]
    slacks = {(row.arm, row.short_function): row.slack for row in rows}
    least, most = min(slacks.values()), max(slacks.values())
    at_least = {arm for (arm, function), slack in slacks.items() if slack == least}
    assert {function for (_, function), slack in slacks.items() if slack == least} == {"theorem4_flat"}
    assert at_least == {"theorem6", "vankov2024"}
    assert {function for (_, function), slack in slacks.items() if slack == most} == {"scalar_network"}
    said = r"are ([\d.]+) times \(Theorem 6 and Vankov et al. on the flat instance; Theorem 3 there ([\d.]+)\) to "
    said += r"([\d,]+) times \(the scalar network\)"
    assert numbers(said, PAGE) == pytest.approx([least, slacks["theorem3", "theorem4_flat"], most], rel=5e-3)
    commented = " ".join(spec("bounds").replace("#", "").split())
    assert numbers(r"they are ([\d.]+) to ([\d,]+) times what it takes", commented) == pytest.approx(
        [least, most], rel=5e-3
    )


@pytest.mark.slow
def test_the_times_on_theorem_4_are_those_of_the_page(inline_run: Callable[..., Any]) -> None:
    speedups = ran(inline_run, "theorem4").speedups
    taken = {one.rule: one.rule_time for one in speedups}
    assert {(one.rule, one.rule_time) for one in speedups} == set(taken.items()), "whatever M is"
    said = r"takes ([\d,]+) steps whatever M is, the step sizes of Vankov et al. \(2024\) ([\d,]+)\."
    assert numbers(said, PAGE) == [taken["theorem3"], taken["vankov2024"]]
    descent = {round(one.M): one.descent_time for one in speedups}
    assert list(descent) == [10, 100, 1000, 10**4, 10**5]
    said = r"takes ([\d,]+) at M = 10, ([\d,]+) at 100, ([\d,]+) at 1,000, ([\d,]+) at 10⁴ and ([\d,]+) at 10⁵"
    assert numbers(said, PAGE) == list(descent.values())
    assert [descent[M] < taken["theorem3"] for M in descent] == [True, True, False, False, False], "where it wins"
