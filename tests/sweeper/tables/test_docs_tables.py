"""The data dictionary says what the tables are: every column, its type, and when it is null.

Its tables are made from the definitions of the columns; ``python tests/sweeper/tables/test_docs_tables.py`` writes them
into the page again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.cli.app import app
from sweeper.report.plots.draw import PLOTS
from sweeper.store.journal import open_state
from sweeper.store.run_dir import RunDir
from sweeper.tables.columns import Column
from sweeper.tables.described import ABOUT
from sweeper.tables.parts import encode
from sweeper.tables.readable import declared_in, trials_table
from sweeper.tables.run import Run
from sweeper.tables.schemas import COLUMNS, columns_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tables.md"
HEAD = "| column | type | unit | meaning | null | kind | shown by |"
MARK = "<!-- the columns of {} -->"


def type_name(kind: pa.DataType) -> str:
    return str(kind).replace("list<item: ", "list<").replace("list<element: ", "list<").replace(", tz=UTC", ", UTC")


def row_of(column: Column) -> str:
    cells = [
        f"`{column.name}`",
        f"`{type_name(column.type)}`",
        column.unit or "–",
        column.meaning.replace("|", "\\|"),
        column.null,
        column.kind,
        column.shown or "–",
    ]
    return f"| {' | '.join(cells)} |"


def dictionary(table: str) -> str:
    return "\n".join([MARK.format(table), HEAD, "|---" * 7 + "|", *map(row_of, columns_of(table))]) + "\n"


def rewritten(page: str) -> str:
    for table in COLUMNS:
        page = re.sub(rf"{re.escape(MARK.format(table))}\n(?:\|.*\n)*", lambda _, name=table: dictionary(name), page)
    return page


@pytest.mark.parametrize("table", COLUMNS)
def test_the_page_lists_the_columns_that_are_defined_and_no_others(table: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(MARK.format(table)) == 1
    assert dictionary(table) in page, f"python {Path(__file__).relative_to(PAGE.parents[1])} writes the page again"
    after = page.partition(dictionary(table))[2]
    assert not after.startswith("|")
    assert f"\n## `{table}`\n\n{ABOUT[table]}" in page, "the words that the file carries"
    assert ABOUT.keys() == COLUMNS.keys()


@pytest.mark.parametrize("table", COLUMNS)
def test_every_column_is_explained(table: str) -> None:
    for column in columns_of(table):
        assert column.meaning.endswith("."), column.name
        assert column.null, column.name
        for shown in filter(None, column.shown.split(", ")):
            command, _, kind = shown.partition(" ")
            assert command in {(found.name or found.callback.__name__) for found in app.registered_commands}
            assert not kind or kind in PLOTS


# What is written


ESTIMATORS = ("directional_smoothness", "layer_smoothness", "directional_curvature", "hessian_spectral_norm")
MORE = (
    "hessian_spectrum",
    "gradient_noise",
    "authors_compat",
    "critical_sharpness",
    "other_directions",
    "preconditioned_sharpness",
    "dictionary_problem:lengths",
)

TRAINED = f"""
problem: {{use: "dictionary_problem:product"}}
update_rule: {{learning_rate: 0.03}}
train: {{steps: 20, evaluate_every: 10}}
measure: {{every: 4, estimators: [{", ".join(f"{{use: '{name}'}}" for name in (*ESTIMATORS, *MORE))}]}}
sweep:
  grid:
    update_rule.learning_rate: [0.03, 300]
    update_rule.clip_norm: [null, 0.5]
    problem.fails: [false, true]
"""

PROBLEM = """
import torch
from torch import nn
from trainers.problem import Problem

def product(*, fails=False, seed):
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False))
    inputs, original = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), model

    def loss(model, batch, carry):
        # Estimators measure a copy, authors_compat with this loss.
        if fails and model is not original and model[0].weight.abs().max() < 100:
            raise RuntimeError("cannot be measured")
        return (model(batch) - batch[:, :2]).square().mean(), carry

    if fails and seed < 0:
        raise ValueError
    return Problem(
        model=model, loss=loss, batch=lambda step: inputs[16 * (step % 2) :][:16],
        probe=lambda share: [inputs[:16], inputs[16:]],
        evaluate=lambda model: {"valid_loss": float(loss(model, inputs, None)[0])}, steps_per_epoch=2, fingerprint="x",
    )

def lengths():
    return lambda probe, iterates: {"grad_norm": probe.value_and_gradient(iterates[0])[1].norm()}
"""

ANALYTIC = """
problem: {use: analytic, function: {use: logistic, slope: 2, L1: 1}, start_gap: 1, epsilon: 0.3, noise: 0.1}
train: {steps: 60}
sweep:
  cases:
    - {update_rule.from_theory: theorem7}
    - {update_rule.learning_rate: 1}
    - {update_rule.learning_rate: 0.0001}
  seeds: 2
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, module_hostile_run: Callable[..., Any]) -> list[Path]:
    """One run of every estimator, with trials that diverge and snapshots that fail, and one of analytic functions."""
    made = []
    for name, text in (("trained", TRAINED), ("analytic", ANALYTIC)):
        folder = tmp_path_factory.mktemp(name)
        (folder / "dictionary_problem.py").write_text(PROBLEM)
        made.append(module_hostile_run(text, folder).run_dir.path)
    return made


def written(run: Path, table: str) -> pa.Table | None:
    file = run / f"{table}.parquet"
    return pq.read_table(file) if file.exists() else None


FREE = {
    "trials": r"(best|final)_\w+|[\w-]+(\.[\w-]+)+",
    "metrics": r"valid_loss",
}
"""Columns that depend on the problem and on what is swept."""


def meaning_of_a_free(name: str) -> str:
    if "." in name:
        return f"Swept: `{name}` of the spec."
    beginning, _, metric = name.partition("_")
    known = {"best": f"The best value of `{metric}` that is finite.", "final": f"The last value of `{metric}`."}
    return known.get(beginning, f"`{name}`, as the problem's `evaluate` returns it.")


@pytest.mark.parametrize("table", COLUMNS)
def test_what_is_written_is_what_is_defined(runs: list[Path], table: str) -> None:
    known = {column.name: column for column in columns_of(table)}
    seen: set[str] = set()
    for run in runs:
        rows = written(run, table)
        if rows is None:
            continue
        assert rows.schema.metadata[b"description"].decode() == ABOUT[table]
        for field in rows.schema:
            if field.name not in known:
                assert re.fullmatch(FREE.get(table, ""), field.name), f"{field.name} is not documented"
                assert field.metadata[b"description"].decode() == meaning_of_a_free(field.name)
                continue
            column = known[field.name]
            seen.add(field.name)
            assert type_name(field.type) == type_name(column.type), field.name
            assert field.metadata[b"description"].decode() == column.meaning
            assert field.metadata.get(b"unit", b"").decode() == column.unit
            nulls = rows[field.name].null_count
            assert column.null != "never" or nulls == 0, f"{field.name} is null in {nulls} rows"
    assert seen == known.keys()


def test_a_row_that_could_not_be_measured_has_only_what_the_page_says(runs: list[Path]) -> None:
    (sentence,) = re.findall(
        r'\("not measured" below\) has only (.*?)\.\n', PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    told = set(re.findall(r"`(\w+)`", sentence))
    for table in COLUMNS:
        if not table.startswith("measurements/"):
            continue
        rows = written(runs[0], table)
        assert rows is not None
        frame = rows.to_pandas()
        failed = frame[frame["error"].notna()]
        assert 0 < len(failed) < len(frame)
        assert set(failed.columns[failed.notna().any()]) == told
        for column in columns_of(table):
            if column.null == "not measured":
                assert frame[frame["error"].isna()][column.name].notna().all(), column.name


# Older runs, and readers


def test_a_file_of_an_earlier_version_reads_as_before(runs: list[Path]) -> None:
    """Descriptions are not data: a file without them is the same table, and neither makes a difference to a part."""
    run = RunDir(runs[0])
    described = pq.read_table(run.table("trials"))
    plain = trials_table(open_state(run), pq.read_table(run.table("metrics")))
    assert plain.schema.field("seed").metadata is None
    assert described.equals(plain)
    assert described.schema.equals(plain.schema)
    assert declared_in(described) == declared_in(plain)
    assert pd.read_parquet(run.table("trials")).equals(plain.to_pandas())
    before = Run(run.path).trials
    run.publish(run.table("trials"), encode(plain))
    after = Run(run.path).trials
    assert before.equals(after)
    for part in run.parts.glob("*.parquet"):
        assert not any(b"description" in (field.metadata or {}) for field in pq.read_schema(part)), (
            "parts stay as they were"
        )


def code_blocks() -> Mapping[str, str]:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return {next(name for name in reversed(READERS) if name in block): block for block in blocks}


READERS = ("sweeper", "pandas", "polars", "duckdb", "for_spreadsheet")


@pytest.mark.parametrize("reader", READERS)
def test_the_readers_of_the_page_read(
    reader: str,
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shown").symlink_to(runs[0])
    monkeypatch.chdir(tmp_path)
    exec(compile(code_blocks()[reader], "tables.md", "exec"), {})
    shown = capfd.readouterr().out
    if reader in {"pandas", "duckdb", "polars"}:
        assert re.search(r"0\.5|clip_norm", shown)
    if reader == "for_spreadsheet":
        assert (tmp_path / "trials.xlsx").stat().st_size > 1000


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
