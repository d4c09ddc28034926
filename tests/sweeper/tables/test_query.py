"""SQL over the tables of runs: what is found, and that nothing but the tables is within its reach."""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.cli.app import main
from sweeper.errors import ClipsweepError
from sweeper.tables.columns import schema_of
from sweeper.tables.described import described
from sweeper.tables.query import answer, catalog
from sweeper.tables.schemas import COLUMNS

CLIP = "update_rule.clip_norm"
AT = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


def make_run(folder: Path, *, clips: Sequence[Any] = (None, 0.5), told: bool = True) -> Path:
    """A run directory with tables of two trials; ``told`` says whether they have descriptions."""
    (folder / "measurements").mkdir(parents=True)
    (folder / "journal.jsonl").touch()
    trials = pa.Table.from_pylist(
        [{"trial_id": f"t{at}", "seed": at, "started_at": AT} for at in range(len(clips))],
        schema=schema_of(column for column in COLUMNS["trials"] if column.name != "case"),
    ).append_column(CLIP, pa.array(clips))
    metrics = pa.table({"trial_id": ["t0", "t0", "t1"], "step": [0, 1, 0], "valid_loss": [3.0, 2.0, float("nan")]})
    points = pa.table({"trial_id": ["t1"], "step": [0], "smoothness": [4.0], "smoothness_by_fraction": [[1.0, None]]})
    telemetry = pa.table({"trial_id": ["t0"], "epoch": [1]})
    tables = {"trials": trials, "metrics": metrics, "telemetry": telemetry}
    for name, table in {**tables, "measurements/directional_smoothness": points}.items():
        is_told = told and name != "telemetry"  # which is one of an earlier version
        pq.write_table(described(name, table, swept=[CLIP]) if is_told else table, folder / f"{name}.parquet")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "one")


def asked(sql: str, *runs: Path) -> list[tuple[Any, ...]]:
    with answer(runs, sql) as found:
        return [found.columns, *found.rows]


def test_every_table_is_a_view_and_measurements_go_by_their_estimator(run: Path) -> None:
    assert asked("select count(*) as n from trials", run) == [("n",), (2,)]
    joined = f'select "{CLIP}", smoothness from trials join {{}} using (trial_id)'
    for name in ("directional_smoothness", "measurements_directional_smoothness"):
        assert asked(joined.format(name), run)[1:] == [(0.5, 4.0)]
    assert asked("from metrics select min(valid_loss)", run)[1:] == [(2.0,)]
    assert asked("select driver_epoch from telemetry", run)[1:] == [(1,)], "today's name for an older table"
    assert asked("select smoothness_by_fraction from directional_smoothness", run)[1:] == [([1.0, None],)]


def test_several_runs_are_told_apart_by_a_column(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "runs" / "it's [2]*", clips=("a", "b", "c"), told=False)
    counted = asked("select run, count(*) from trials group by all order by all", run, other)
    assert counted[1:] == [("it's [2]*", 3), ("one", 2)]
    values = asked(f'select "{CLIP}" from trials order by run, trial_id', other, run)
    assert [value for (value,) in values[1:]] == ["a", "b", "c", None, "0.5"], "numbers beside texts are texts"
    with pytest.raises(ClipsweepError, match="given twice"):
        asked("from trials", run, run)


def test_the_catalog_says_what_every_column_is(run: Path, tmp_path: Path) -> None:
    found = {(one.table, one.column): one for one in catalog([run])}
    assert found["trials", "clip_norm"].unit == "loss / weight"
    assert found["trials", CLIP].description == f"Swept: `{CLIP}` of the spec."
    assert found["metrics", "valid_loss"].rows == 3
    assert found["telemetry", "driver_epoch"].description.startswith("Which driver")
    assert ("directional_smoothness", "smoothness") in found
    older = catalog([make_run(tmp_path / "older", told=False)])
    assert [(one.column, one.description, one.unit) for one in older] == [
        (one.column, one.description, one.unit) for one in found.values()
    ], "a file without descriptions has those of today"
    assert catalog([run, tmp_path / "older"])[0].column == "run"


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{secret}')",
        "select * from read_text('{secret}')",
        "select * from '{secret}'",
        "select * from '{trials}'",
        "select * from glob('{folder}/*')",
        "with x as (copy (select 1) to '{trials}' (use_tmp_file false)) select 1",
        "copy (select 1) to '{trials}' (use_tmp_file false)",
        "copy (pivot trials on seed using count(*)) to '{trials}'",
        "explain analyze copy (select 1) to '{trials}' (use_tmp_file false)",
        "attach '{folder}/new.db'",
        "export database '{folder}/new'",
        "set enable_external_access = true",
        "reset enable_external_access",
        "install httpfs",
        "load '{secret}'",
        "select * from 'https://example.com/a.parquet'",
        "create table a as select 1",
        "drop view trials",
        "select 1; select 2",
        "select 1; copy (select 1) to '{folder}/new'",
        "",
        "-- nothing",
    ],
)
def test_nothing_but_the_tables_is_within_reach_and_nothing_is_written(run: Path, tmp_path: Path, sql: str) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"secret": tmp_path / "secret.csv", "trials": run / "trials.parquet", "folder": tmp_path}
    with pytest.raises(
        ClipsweepError, match=r"^SQL: .*(disabled|exist|CTE)|a query only reads: |expected one SQL statement"
    ):
        asked(sql.format(**places), run)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("sql", "lines"),
    [
        ("slect 1", ["SQL: Parser Error: syntax error at or near", "LINE 1: slect 1", "        ^"]),
        ("select 1,\n  nope from trials", ["SQL: Binder Error: .*nope", "LINE 2:   nope", "          ^"]),
        (
            "select * from trails",
            ["SQL: Catalog Error: .*trails", "LINE 1:", "                      ^", "tables: .*trials"],
        ),
        ("select 'a'::int", ["SQL: Conversion Error: .*'a'"]),
        ("select error(trial_id) from trials", ["SQL: .*t0"]),
    ],
)
def test_an_error_of_sql_says_where(run: Path, sql: str, lines: list[str]) -> None:
    with pytest.raises(ClipsweepError) as raised:
        asked(sql, run)
    for line in lines:
        raised.match(line.replace("^", r"\^") if line.strip() == "^" else line)


def test_rows_are_read_while_they_are_asked_for(run: Path) -> None:
    with answer([run], "select i from range(100_000_000_000) as numbers(i)") as found:
        assert list(itertools.islice(found.rows, 3)) == [(0,), (1,), (2,)]


def test_values_are_plain_and_names_of_columns_differ(run: Path) -> None:
    sql = "select 1 as a, 1.5::decimal(4, 1) as a, started_at, date '2026-01-31' as d, {'x': [1]} as s, 'b'::blob as b"
    columns, row = asked(f"{sql} from trials limit 1", run)
    assert columns == ("a", "a_2", "started_at", "d", "s", "b")
    assert row == (1, 1.5, "2026-01-31T12:00:00+00:00", "2026-01-31", {"x": [1]}, "62")


def test_a_run_without_tables_and_a_damaged_table_are_errors(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "journal.jsonl").touch()
    with pytest.raises(ClipsweepError, match="no table is written yet"):
        catalog([empty])
    (run / "trials.parquet").write_bytes(b"PAR1")
    with pytest.raises(ClipsweepError, match=r"trials\.parquet: cannot be read"):
        asked("from trials", run)


def test_a_table_that_is_a_link_is_not_followed(run: Path, tmp_path: Path) -> None:
    (run / "trials.parquet").rename(tmp_path / "elsewhere.parquet")
    (run / "trials.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(ClipsweepError, match="symbolic link"):
        asked("from trials", run)


def test_without_duckdb_it_is_said_how_to_install_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(ClipsweepError, match=r"pip install 'clipsweep\[query\]'"):
        asked("from trials", run)
    assert catalog([run]), "what there is can be told without it"


# The command


Query = Callable[..., tuple[int, str, str]]


@pytest.fixture
def query(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Query:
    """What the command line prints for a query: exit code, stdout, stderr."""

    def asked(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["clipsweep", "query", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capfd.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return asked


def test_formats_that_are_written_row_by_row_can_be_read(query: Query, run: Path) -> None:
    sql = (
        "select trial_id, null as n, true as t, [1, null] as l, 'nan'::double as f, '=1+1' as x from trials order by 1"
    )
    document = json.loads(query(run, sql, "--json")[1])
    assert document[1] == {"trial_id": "t1", "n": None, "t": True, "l": [1, None], "f": None, "x": "=1+1"}
    head, first, _ = csv.reader(io.StringIO(query(run, sql, "--format", "csv")[1]))
    assert head == ["trial_id", "n", "t", "l", "f", "x"]
    assert first == ["t0", "", "true", "[1, null]", "", "'=1+1"]
    assert "| t0 | – | true | [1, null] | nan | =1+1 |" in query(run, sql, "--format", "md")[1]
    nothing = "select seed from trials where seed = 7"
    assert json.loads(query(run, nothing, "--json")[1]) == []
    assert query(run, nothing, "--format", "csv")[1] == "seed\n"
    assert query(run, nothing)[1] == "seed\nno rows\n"


def test_a_table_has_the_first_rows_and_says_so_and_other_formats_have_all(query: Query, run: Path) -> None:
    sql = "select i from range(1500) as numbers(i)"
    assert query(run, sql)[1].splitlines()[-1].startswith("the first 1000 rows: --format csv")
    assert query(run, sql, "--limit", 2)[1].splitlines()[-1].startswith("the first 2 rows")
    assert len(query(run, sql, "--format", "csv")[1].splitlines()) == 1501
    assert query(run, sql, "--format", "csv", "--limit", 2)[1] == "i\n0\n1\n"


def test_a_statement_comes_from_stdin_or_last(query: Query, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("select seed\nfrom trials where seed = 1\n"))
    assert query(run, "-", "--format", "csv")[1] == "seed\n1\n"
    code, out, err = query(run, "runs/nowhere")
    assert (code, out) == (2, "")
    assert "no such directory" in err
    assert "no run is given" in query("select 1")[2]
    listed = query(run)[1]
    assert "trials (2 rows): What each trial was, and how it ended." in listed
    assert "Threshold of clipping by norm, eq. (5). (double, loss / weight)" in listed
