"""``--format`` and ``--json`` of every command: the same everywhere, and JSON and CSV that others can read."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from sweeper.cli.app import app
from sweeper.errors import ClipsweepError
from sweeper.formats import FORMATS, choose_format, csv_table, in_format, json_text

Ask = Callable[..., Any]

TABLES = {
    "status": ["status", "runs/shown"],
    "ls": ["ls"],
    "plan": ["plan", "shown.yaml"],
    "check": ["check", "shown.yaml", "--set", "sweep.grid={}"],
    "null-test": ["null-test", "shown.yaml", "--set", "sweep.grid={}"],
    "data list": ["data", "list"],
    "list": ["list"],
    "report": ["report", "runs/shown"],
    "reach": ["reach", "runs/shown"],
    "fit": ["fit", "runs/shown"],
    "advise": ["advise", "runs/shown"],
    "theory": ["theory", "runs/theory"],
    "times": ["times", "runs/shown"],
    "compare": ["compare", "runs/shown", "runs/driven"],
    "query": ["query", "runs/shown", "select * from trials order by trial_id"],
    "audit-clip": ["audit-clip", "shown_step:train_step", "--ranks", "1"],
}
"""Commands with rows, which have all formats."""

SENTENCES = {
    "validate": ["validate", "shown.yaml"],
    "run": ["run", "shown.yaml"],
    "attach": ["attach", "runs/shown"],
    "retry": ["retry", "runs/shown"],
    "cancel": ["cancel", "runs/driven", "--no-wait"],
    "estimate": ["estimate", "runs/shown", "--estimator", "directional_curvature"],
    "plot": ["plot", "runs/shown", "loss", "--out", "loss.png"],
    "export": ["export", "runs/shown", "csv", "--to", "exported"],
}
"""Commands whose answer is no table."""

CONTRADICTION = "--json means --format json: leave out one of --json and --format table"

WITHOUT = {"init", "schema", "logs", "watch", "data fetch", "data path"}
"""Commands that print a file, a log, or one path."""


WITH_PAGES = {"report", "compare"}
"""Commands that make a page of HTML, too."""


def options_by_command() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        for called, one in {name: command}.items() if inner is None else inner.items():
            full = called if inner is None else f"{name} {called}"
            found[full] = {option for parameter in one.params for option in parameter.opts}
    return found


def test_every_command_that_prints_data_takes_both_options_and_no_other_takes_one() -> None:
    found = options_by_command()
    asked = TABLES.keys() | SENTENCES.keys()
    for option in ("--json", "--format"):
        assert {name for name, options in found.items() if option in options} == asked
    assert found.keys() == asked | WITHOUT


@pytest.mark.parametrize("name", [*TABLES, *SENTENCES])
def test_an_unknown_format_and_a_contradiction_are_refused_before_anything_is_done(ask: Ask, name: str) -> None:
    words = (TABLES | SENTENCES)[name]
    known = "table, md, csv, json" if name in TABLES else "table, json"
    known += ", html" if name in WITH_PAGES else ""
    for wrong, message in (
        (["--format", "xml"], f"error: --format 'xml': unknown; known: {known}\n"),
        (
            ["--json", "--format", "table"],
            "error: --json means --format json: leave out one of --json and --format table\n",
        ),
    ):
        shown = ask(*words, *wrong)
        assert (shown.code, shown.out, shown.err) == (2, "", message)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_a_table_in_every_format_and_json_has_two_names(ask: Ask, name: str) -> None:
    shown = {style: ask(*TABLES[name], "--format", style) for style in FORMATS}
    assert len({one.code for one in shown.values()}) == 1, "the format does not change the exit code"
    assert shown["table"].out == ask(*TABLES[name]).out
    assert shown["json"].document
    if name != "null-test":  # the last bits of a norm differ with where arrays lie in memory
        assert _steady(shown["json"].out) == _steady(ask(*TABLES[name], "--json").out)
    head, *rows = csv.reader(io.StringIO(shown["csv"].out))
    assert len(set(head)) == len(head) > 3
    assert rows
    assert {len(row) for row in rows} == {len(head)}
    markdown = [line for line in shown["md"].out.splitlines() if line.startswith("|")]
    assert set(markdown[1]) <= set("| -:")
    assert len(markdown) >= 3


def _steady(text: str) -> str:
    """Without what changes from one second to the next."""
    return re.sub(r'"quiet_s": [\d.]+', "", text)


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("name", [name for name in SENTENCES if name not in {"retry", "cancel"}])
def test_an_answer_in_words_is_one_document_alone_on_stdout(ask: Ask, name: str) -> None:
    words, shown = ask(*SENTENCES[name]), ask(*SENTENCES[name], "--json")
    assert shown.document
    assert shown.code == words.code
    assert shown.err == words.err
    assert ask(*SENTENCES[name], "--format", "json").document.keys() == shown.document.keys()


def test_an_error_leaves_stdout_empty_whatever_the_format(ask: Ask) -> None:
    for words in (["status", "runs/none"], ["report", "runs/none"], ["plan", "none.yaml"], ["validate", "none.yaml"]):
        # `validate --json` alone tells errors on stdout, too: they are its answer.
        for option in ([], *([["--json"]] if words[0] != "validate" else [])):
            shown = ask(*words, *option)
            assert (shown.code, shown.out) == (2, "")
            assert "no such" in shown.err


def test_rows_of_a_csv_can_be_counted_and_joined(ask: Ask) -> None:
    trials = list(csv.DictReader(io.StringIO(ask("status", "runs/shown", "--format", "csv").out)))
    document = ask("status", "runs/shown", "--json").document
    assert [row["trial_id"] for row in trials] == [row["trial_id"] for row in document["trial_rows"]]
    runs = {row["path"]: row for row in csv.DictReader(io.StringIO(ask("ls", "--format", "csv").out))}
    assert int(runs["runs/shown"]["failed"]) == document["counts"]["failed"] == 6
    assert runs["runs/shown"]["running"] == "0"
    assert runs["runs/driven"]["driver"].startswith("pid ")
    assert "damaged line" in runs["runs/damaged"]["error"]
    cells = list(csv.DictReader(io.StringIO(ask("plan", "shown.yaml", "--format", "csv").out)))
    assert sum(int(row["failed"]) for row in cells) == 6
    assert sum(int(row["new"]) for row in cells) == 0


def test_a_folder_without_runs_is_an_empty_table(ask: Ask, tmp_path: Path) -> None:
    assert ask("ls", str(tmp_path), "--json").document == []
    head = ask("ls", str(tmp_path), "--format", "csv").out
    assert head.startswith("path,state,driver,trials,queued,paused,running,held,done,")
    assert head.count("\n") == 1


# The dispatch itself


def test_only_the_format_that_is_asked_for_is_made() -> None:
    def never() -> Any:
        raise AssertionError

    makers: dict[str, Callable[[], Any]] = dict.fromkeys(FORMATS, never)
    for style in FORMATS:
        expected = "1" if style == "json" else style
        made = {**makers, style: lambda style=style: 1 if style == "json" else style}
        assert in_format(style, **made) == expected
    with pytest.raises(ValueError, match="unknown format 'xml'; known: table, md, csv, json"):
        in_format("xml", **makers)


@pytest.mark.parametrize(
    ("wanted", "as_json", "style"),
    [(None, False, "table"), (None, True, "json"), ("json", True, "json"), ("md", False, "md")],
)
def test_json_is_short_for_format_json(wanted: str | None, as_json: bool, style: str) -> None:
    assert choose_format(wanted, as_json=as_json) == style


def test_a_format_that_a_command_lacks_is_named_with_those_that_it_has() -> None:
    with pytest.raises(ClipsweepError, match="--format 'csv': unknown; known: table, json"):
        choose_format("csv", as_json=True, known=("table", "json"))


def test_json_has_no_number_that_json_lacks_and_no_control_character() -> None:
    document = {
        "nan": float("nan"),
        "inf": (np.float32("inf"), -np.inf),
        "whole": np.int64(3),
        "flag": np.bool_(True),
        "path": Path("a/b"),
        "text": "\x7f\x1b[2J\u202e\udcff",
        3: {"empty": ()},
    }
    text = json_text(document)
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    assert json.loads(text) == {
        "nan": None,
        "inf": [None, None],
        "whole": 3,
        "flag": True,
        "path": "a/b",
        "text": "\x7f\x1b[2J\u202e\udcff",
        "3": {"empty": []},
    }


def test_records_of_different_columns_share_one_head() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table([{"a": 1, "b": "x"}, {"a": 2, "c": float("nan")}]))))
    assert rows == [{"a": "1", "b": "x", "c": ""}, {"a": "2", "b": "", "c": ""}]


def test_events_have_stdout_for_themselves_and_come_from_a_driver_on_this_machine(ask: Ask) -> None:
    for words, said in (
        (["--events", "xml"], "error: --events 'xml': unknown; known: jsonl\n"),
        (["--events", "jsonl", "--json"], "error: --events and --json both need stdout for themselves"),
        (["--events", "jsonl", "--detach", "--address", "auto"], "error: --events: come from the driver"),
    ):
        shown = ask("run", "shown.yaml", *words)
        assert (shown.code, shown.out) == (2, "")
        assert shown.err.startswith(said)


def test_status_names_what_was_slow_in_every_format(ask: Ask) -> None:
    table = ask("status", "runs/shown", "--slow")
    slow = ask("status", "runs/shown", "--slow", "--json").document["slow"]
    assert table.code == 0
    for trial in slow["trials"]:
        assert f"  {trial['trial_id']}  {trial['trial']}: " in table.out
        assert f"    {trial['why']}\n" in table.out
    rows = list(csv.DictReader(io.StringIO(ask("status", "runs/shown", "--slow", "--format", "csv").out)))
    assert [row["name"] for row in rows if row["of"] == "trial"] == [trial["trial"] for trial in slow["trials"]]
    assert [row["of"] for row in rows].count("worker") == len(slow["workers"]) > 0
