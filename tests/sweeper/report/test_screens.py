"""What terminals of 60, 80 and 120 columns show: no line that is too long, no word in two, every value."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.report.answers import build_answers
from sweeper.report.fits import build_fits
from sweeper.report.reach import build_reach
from sweeper.report.render.answers import render_answers
from sweeper.report.render.fits import render_fits
from sweeper.report.render.reach import render_reach
from sweeper.report.render.summary import render
from sweeper.report.render.table import Column, Table, lifted
from sweeper.report.render.terminal import MAX_BLOCKS, MAX_ROWS, terminal_lines, terminal_table
from sweeper.report.render.theory import render_theory
from sweeper.report.select import labels_of, select
from sweeper.report.summary import build_report
from sweeper.report.theory import build_theory
from sweeper.tables.run import Run

WIDTHS = (60, 80, 120)
THEORY = """
problem: {use: analytic, assume: {L0: 1, L1: 1}, epsilon: 0.1}
train: {steps: 20000}
sweep:
  zip:
    problem.function.use: [theorem4_steep, theorem4_flat]
    problem.start_gradient_norm: [10, null]
    problem.start_gap: [null, 1]
  cases:
    - {update_rule.from_theory: theorem3}
    - {update_rule.learning_rate: 0.6}
    - {update_rule.learning_rate: 0.015}
"""
CASES = """
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 8}
update_rule: {learning_rate: 0.01}
train: {steps: 40, evaluate_every: 10}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep:
  grid: {problem.depth_of_nothing_at_all: [1]}
  cases:
    - {}
    - {name: as published by the authors, update_rule.clip_norm: 0.5, update_rule.momentum: 0.9}
    - {update_rule.schedule: {use: cosine, final_fraction: 0.1}}
    - {update_rule.schedule: {use: cosine, final_fraction: 0.01}, update_rule.learning_rate: 0.0316227766}
  seeds: 2
""".replace("  grid: {problem.depth_of_nothing_at_all: [1]}\n", "")

Screen = Callable[[int | None], str]


def screens_of(run: Run, path: str = "run") -> dict[str, Screen]:
    report, answers = build_report(run), build_answers(run)
    screens: dict[str, Screen] = {
        "report": lambda width: render(report, "table", width=width),
        "advise": lambda width: render_answers(answers, "table", width=width),
    }
    if run.has("metrics") and "hitting_status" not in run.trials:
        reach = build_reach(run)
        screens["reach"] = lambda width: render_reach(reach, "table", width=width)
    if run.estimators:
        fits = build_fits(run)
        screens["fit"] = lambda width: render_fits(path, fits, "table", width=width)
    if "hitting_status" in run.trials:
        theory = build_theory(run)
        screens["theory"] = lambda width: render_theory(theory, "table", width=width)
    return screens


@pytest.fixture(scope="module")
def of_theory(module_inline_run: Callable[[str], Any]) -> Run:
    return Run(module_inline_run(THEORY).run_dir.path)


@pytest.fixture(scope="module")
def of_cases(module_inline_run: Callable[[str], Any]) -> Run:
    return Run(module_inline_run(CASES).run_dir.path)


def words(text: str) -> set[str]:
    """What stands between spaces, commas and lines; names of options as the words that they are made of, too."""
    whole = set(re.sub(r"[━┏┳┓┃┡╇┩│└┴┘─=,;\[\]]", " ", text).split())
    return whole | {part for word in whole for part in word.split("_")}


RUNS = ("run_of_3", "run_of_12", "run_of_60", "of_theory", "of_cases")


@pytest.mark.parametrize("name", RUNS)
def test_no_line_is_too_long_and_no_word_in_two(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    labels = labels_of(run, select(run, []))
    known = words(" ".join(labels[cell] for cell in run.trials["cell_id"].unique()))
    known |= words("40 more rows of 60: --where chooses, --format csv has all --format json has all *")
    for command, screen in screens_of(run).items():
        wide = words(screen(None))
        for width in WIDTHS:
            lines = [line for line in screen(width).splitlines() if str(run.path)[:20] not in line]
            assert max(map(len, lines)) <= width, command
            # A long path is in two lines, which no rule about words can help.
            left = {word for word in words("\n".join(lines)) - wide - known if word not in str(run.path)}
            assert left == set(), (command, width)


@pytest.mark.parametrize("name", ["run_of_3", "run_of_12", "of_theory", "of_cases"])
def test_every_value_is_shown(name: str, request: pytest.FixtureRequest) -> None:
    for command, screen in screens_of(request.getfixturevalue(name)).items():
        wide = [line for line in screen(None).splitlines() if line.startswith("│")]
        assert wide, command
        values = {word for line in wide for word in words(line)} - {"–", "none"}
        for width in WIDTHS:
            # In a block the label says what the cell is.
            assert values - words(screen(width)) == set(), (command, width)


def test_a_table_has_a_frame_where_there_is_room_and_blocks_where_there_is_none(run_of_12: Run) -> None:
    screen = screens_of(run_of_12)["report"]
    assert "┏" in screen(None)
    assert "┏" not in screen(80)
    assert "─" in screen(80)
    narrow = screen(60).splitlines()
    at = narrow.index("learning_rate=0.3 no clipping")
    assert narrow[at + 1].startswith("  final train loss")
    assert not any("rank corr" in line and line.endswith("–") for line in narrow), "what is missing is left out"


def test_the_best_rows_stay_where_not_all_fit(run_of_60: Run) -> None:
    report = build_report(run_of_60)
    screen = screens_of(run_of_60)["report"]
    narrow = screen(60)
    assert narrow.count("final train loss  ") == MAX_BLOCKS
    assert f"{len(report.cells) - MAX_BLOCKS} more rows of {len(report.cells)}: --where chooses" in narrow
    best = [cell.label for cell in report.cells if cell.is_best]
    joined = " ".join(narrow.split())
    assert best
    assert all(f"* {label} " in joined for label in best)
    assert "more rows" not in screen(None)
    ordered = render(build_report(run_of_60, sort="-learning_rate"), "table", width=60)
    assert "learning_rate=10" in ordered
    assert "learning_rate=0.03" not in ordered.partition("more rows")[0], "an order that was asked for is kept"


def test_more_rows_than_a_terminal_shows_are_all_in_a_pipe() -> None:
    column = Column(head="n", cells=[str(at) for at in range(MAX_ROWS + 5)])
    table = Table(title="many", columns=[column], labels=list(column.cells))
    assert terminal_table(table, width=80).splitlines()[-1] == "5 more rows of 65: --where chooses"
    assert "│ 64 │" in terminal_table(table)


def test_what_is_the_same_in_all_rows_stands_above_them(of_cases: Run, run_of_3: Run) -> None:
    assert "all cells: 2 seeds, none diverged" in screens_of(of_cases)["report"](None)
    first = render(build_report(run_of_3, where=["learning_rate=10"]), "table")
    assert "all cells: learning_rate=10, 2 seeds" in first
    assert "│ learning_rate" not in first
    rows = render(build_report(run_of_3, by=["clip_norm"]), "md")
    assert "all rows: no smoothness measured" in rows
    (alone,) = build_report(run_of_3, where=["learning_rate=1"]).cells
    assert alone.values["learning_rate"] == 1.0
    assert "all cells" not in render(build_report(run_of_3, where=["learning_rate=1"]), "table"), "one row is no rows"


def test_the_best_row_of_each_arm_is_marked(run_of_12: Run) -> None:
    report = build_report(run_of_12)
    bests = [(best.arm, best.cell.values) for best in report.bests if best.cell is not None]
    assert [(cell.arm, cell.values) for cell in report.cells if cell.is_best] == bests
    marked = [line for line in render(report, "table").splitlines() if line.startswith("│ *")]
    assert len(marked) == len(bests) == 2
    assert "\x1b[1m" in render(report, "table", color=True), "and in bold"
    assert not any(cell.is_best for cell in build_report(run_of_12, by=["clip_norm"]).cells), "a row that is no cell"


def test_a_command_in_a_line_stays_whole_and_what_follows_is_indented() -> None:
    (first, *others) = terminal_lines(["note: " + "word " * 30], width=60).splitlines()
    assert first.startswith("note: word")
    assert all(line.startswith("  word") for line in others)
    assert terminal_lines(["a: 1 ± 2"], width=30) == "a: 1 ± 2"
    (one, two) = terminal_lines(["x" * 24 + " 0.06 ± 0.14"], width=30).splitlines()
    assert (one, two) == ("x" * 24, "  0.06 ± 0.14"), "a value stays with its half-width"
    long = terminal_lines(["x" * 70], width=30).splitlines()
    assert max(map(len, long)) <= 30
    assert "".join(line.strip() for line in long) == "x" * 70


def test_a_patch_that_is_broken_is_still_yaml() -> None:
    import yaml

    lines = ["sweep:", "  grid:", f"    update_rule.learning_rate: [{', '.join(map(str, range(100, 130)))}]"]
    document = yaml.safe_load(terminal_lines(lines, width=60))
    assert document["sweep"]["grid"]["update_rule.learning_rate"] == list(range(100, 130))


def test_text_of_others_is_no_markup_and_wide_characters_count_twice() -> None:
    table = Table(title="[bold]t", columns=[Column(head="[red]h", cells=["日本\x1b[2J"])], labels=["[blue]l"])
    for width in (None, 60):
        shown = terminal_table(table, width=width)
        assert "[bold]t" in shown
        assert "日本\\x1b[2J" in shown
    table = Table(title="", columns=[Column(head="h", cells=["日本" * 30])], labels=["l"])
    from rich.cells import cell_len

    assert max(map(cell_len, terminal_table(table, width=40).splitlines())) <= 40


def test_columns_that_stay_are_kept_in_their_order() -> None:
    columns = [Column(head=name, cells=["1", "1"], same="" if name == "b" else None) for name in "abc"]
    kept, line = lifted(Table(title="", columns=columns, labels=["x", "y"]))
    assert ([column.head for column in kept], line) == (["a", "c"], "")
