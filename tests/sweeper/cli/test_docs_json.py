"""The page on the JSON of every command says what the commands print: every key, and its type."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from sweeper.cli.app import app

Ask = Callable[..., Any]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "json.md"
ROW = re.compile(r"^\| `(?P<key>[^`]+)` \| (?P<types>[a-z ]+) \| (?P<meaning>.+) \|$", re.MULTILINE)

SAME_KEYS = re.compile(r"^`(.*?)` has the keys of \[`(.+?)`\].*?, without (`.+?`(?: and `.+?`)*)", re.MULTILINE)


def sections() -> dict[str, str]:
    """Command to its section of the page."""
    parts = re.split(r"^## `(.+)`$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(section: str) -> dict[str, set[str]]:
    """Key to types; a section that says so has the keys of another, too."""
    rows = {row["key"]: set(row["types"].split(" or ")) for row in ROW.finditer(section)}
    for prefix, other, without in SAME_KEYS.findall(section):
        keys = documented(sections()[other])
        rows |= {
            prefix + key: types
            for key, types in keys.items()
            if not key.startswith(tuple(re.findall("`(.+?)`", without)))
        }
    return rows


def printed(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a document, with the type of its value."""
    kinds = {dict: "object", list: "list", str: "text", bool: "boolean", int: "integer", float: "number"}
    if place:
        yield place, "null" if value is None else kinds[type(value)]
    if isinstance(value, dict):
        for key, part in value.items():
            yield from printed(part, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for part in value:
            yield from printed(part, f"{place}[]")


def pattern(key: str) -> str:
    """A documented key, in which a name in angle brackets stands for any."""
    parts = re.split(r"(<[^<>]+>)", key)
    return "".join(".+" if part.startswith("<") else re.escape(part) for part in parts)


COMMANDS: dict[str, list[list[str]]] = {
    "validate": [
        ["validate", "shown.yaml"],
        ["validate", "searched.yaml"],
        ["validate", "shown.yaml", "--set", "train.step=1"],
        ["validate", "wrong.yaml"],
        ["validate", "nowhere.yaml"],
    ],
    "plan": [
        ["plan", "shown.yaml"],
        ["plan", "shown.yaml", "--out", "runs/new", "--set", "resources.trainers.gpus=1"],
        ["plan", "shown.yaml", "--set", "train.steps=70", "--set", "measure.every=7"],
        ["plan", "searched.yaml", "--out", "runs/new"],
        ["plan", "shown.yaml", "--out", "runs/new", "--set", "resources.trainers.pack=4"],
    ],
    "check": [
        ["check", "shown.yaml", "--set", "sweep.grid={}"],
        ["check", "shown.yaml", "--set", "sweep.grid={}", "--set", "problem.fails=true", "--set", "sweep.seeds=[1]"],
    ],
    "null-test": [
        ["null-test", "shown.yaml", "--set", "sweep.grid={}"],
        ["null-test", "shown.yaml", "--set", "sweep.grid={}", "--set", "problem.wrong=1"],
    ],
    "audit-clip": [["audit-clip", "shown_step:train_step", "--ranks", "1"]],
    "run": [["run", "shown.yaml"], ["run", "shown.yaml", "--detach", "--address", "auto"]],
    "attach": [["attach", "runs/shown"]],
    "cancel": [["cancel", "runs/driven", "--no-wait"]],
    "retry": [["retry", "runs/copy"]],
    "export": [["export", "runs/shown", "csv", "--to", "exported"], ["export", "runs/shown", "latex", "--to", "paper"]],
    "estimate": [["estimate", "runs/shown", "--estimator", "directional_curvature"]],
    "status": [
        ["status", "runs/shown"],
        ["status", "runs/driven"],
        ["status", "runs/searched"],
        ["status", "runs/shown", "--slow"],
    ],
    "ls": [["ls"]],
    "data list": [["data", "list"]],
    "list": [["list"]],
    "report": [
        ["report", "runs/shown"],
        ["report", "runs/shown", "--by", "problem.fails"],
        ["report", "runs/searched"],
        ["report", "runs/raced"],
    ],
    "reach": [["reach", "runs/shown"], ["reach", "runs/shown", "--level", "-1e9"]],
    "fit": [["fit", "runs/shown"]],
    "advise": [["advise", "runs/shown"], ["advise", "runs/searched"], ["advise", "runs/raced"]],
    "theory": [["theory", "runs/theory"]],
    "times": [["times", "runs/shown"], ["times", "runs/shown", "--by", "trial"]],
    "compare": [["compare", "runs/shown", "runs/copy"], ["compare", "runs/shown", "runs/raced", "runs/searched"]],
    "query": [
        ["query", "runs/shown"],
        ["query", "runs/shown", "select 1 as a, true as b, 'c' as c, null as d, [1.5] as e"],
    ],
    "plot": [
        ["plot", "runs/shown", "loss", "--out", "loss.png", "--data", "loss.csv"],
        ["plot", "runs/shown", "loss", "--out", "loss.png"],
    ],
}


class _Jobs:
    """A job server that starts nothing."""

    def __init__(self, server: Any) -> None: ...

    def submit(self, *arguments: Any, **options: Any) -> str:
        return "raysubmit_1"

    def wait_until_driven(self, *arguments: Any) -> None: ...


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_keys_that_are_printed_are_those_that_are_documented(
    command: str, ask: Ask, shown_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = SimpleNamespace(url="http://head:8265", notes=(), guarded=True)
    monkeypatch.setattr("sweeper.cluster.job_server.find_job_server", lambda *arguments, **options: server)
    monkeypatch.setattr("sweeper.cluster.jobs.Jobs", _Jobs)
    # So that something stands out in runs of a second, too.
    monkeypatch.setattr("sweeper.report.times._STANDS_OUT", 0.0)
    monkeypatch.setattr("sweeper.report.times._LEAST_S", 0.0)
    shutil.copytree(shown_folder / "runs" / "shown", shown_folder / "runs" / "copy", dirs_exist_ok=True)
    (shown_folder / "wrong.yaml").write_text("name: [1]\n")
    found: dict[str, set[str]] = {}
    for words in COMMANDS[command]:
        shown = ask(*words, "--json")
        assert shown.code in ({0, 2} if command == "validate" else {0, 1}), shown.err
        for key, kind in printed(shown.document):
            found.setdefault(key, set()).add(kind)
    told = documented(sections()[command])
    unknown, unseen = {}, dict.fromkeys(told)
    for key, kinds in found.items():
        fitting = [name for name in told if re.fullmatch(pattern(name), key)]
        # The one that says most: with the fewest names that stand for others, and else the longest.
        name = min(fitting, key=lambda name: (name.count("<"), -len(name)), default=None)
        if name is None or not kinds <= told[name] | ({"integer"} if "number" in told[name] else set()):
            unknown[key] = kinds
        unseen.pop(name, None)
    assert unknown == {}, "printed, but not documented so"
    assert list(unseen) == [], "documented, but not printed"


def test_every_command_with_json_has_a_section() -> None:
    found = set()
    for name, command in typer.main.get_command(app).commands.items():
        for inner, one in getattr(command, "commands", {"": command}).items():
            if any("--json" in parameter.opts for parameter in one.params):
                found.add(f"{name} {inner}".strip())
    assert sections().keys() == found == COMMANDS.keys()


def test_every_key_is_explained() -> None:
    for section in sections().values():
        rows = list(ROW.finditer(section))
        assert rows or "has the keys of" in section
        assert section.count("\n| `") == len(rows), "a row that the test does not understand"
        for row in rows:
            assert set(row["types"].split(" or ")) <= {"text", "integer", "number", "boolean", "object", "list", "null"}
            assert row["meaning"].strip()
