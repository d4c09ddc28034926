"""The command line without Ray: messages, exit codes, what goes where."""

from __future__ import annotations

import importlib
import io
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from rich.console import Console, ConsoleDimensions

from sweeper.cli.app import main
from sweeper.labels import duration
from sweeper.monitor.display import LineDisplay, LiveDisplay, choose_display
from sweeper.planning.preview import plan_document, plan_text
from sweeper.protocol.view import Active, View
from sweeper.spec import json_schema, load_spec

ROOT = Path(__file__).resolve().parents[3]


def clipsweep(*arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_errors_of_a_spec_go_to_stderr_with_exit_code_2_and_never_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "problem: {use: deep_linear}\nupdate_rule: {learning_rat: 1}\ntrain: {steps: x}\n"
    )
    for command in ("validate", "plan", "run"):
        done = clipsweep(command, "bad.yaml", folder=tmp_path, code=2)
        assert done.stdout == ""
        assert "bad.yaml:2:15: update_rule.learning_rat: unknown key" in done.stderr
        assert "did you mean 'learning_rate'?" in done.stderr
        assert "bad.yaml:3:16: train.steps" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists(), "nothing is written for a spec that is wrong"


def test_a_missing_spec_run_or_folder_is_one_clear_line(tmp_path: Path) -> None:
    assert "nowhere.yaml" in clipsweep("run", "nowhere.yaml", folder=tmp_path, code=2).stderr
    assert "runs/x: no such directory" in clipsweep("report", "runs/x", folder=tmp_path, code=2).stderr
    assert "`clipsweep run SPEC` creates runs" in clipsweep("ls", folder=tmp_path, code=2).stderr
    assert "No such command" in clipsweep("rum", folder=tmp_path, code=2).stderr


def test_plan_as_json_is_one_document_on_stdout(tmp_path: Path) -> None:
    done = clipsweep("plan", str(ROOT / "specs" / "quickstart.yaml"), "--json", folder=tmp_path)
    document = json.loads(done.stdout)
    assert (document["cells"], document["seeds"], document["trials"], document["new"]) == (6, 2, 12, 12)
    assert document["steps"] == 12 * 250
    assert document["seconds"] > 0
    assert document["bytes"] > 0


def test_plan_loads_neither_torch_nor_ray_nor_arrow(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['clipsweep', 'plan', sys.argv[1]]\n"
        "from sweeper.cli.app import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'pandas', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    spec = str(ROOT / "specs" / "quickstart.yaml")
    subprocess.run([sys.executable, "-c", program, spec], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize(
    "command",
    [
        *(f"{name} nowhere" for name in ("report", "fit", "advise", "theory", "status")),
        "check no.yaml",
        "null-test no.yaml",
    ],
)
def test_a_mistyped_name_is_told_before_anything_large_is_loaded(command: str, tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['clipsweep', *sys.argv[1:]]\n"
        "from sweeper.cli.app import app\n"
        "from sweeper.errors import ClipsweepError, SpecError\n"
        "try:\n"
        "    app(standalone_mode=False)\n"
        "except (ClipsweepError, SpecError) as error:\n"
        "    print(error)\n"
        "print({'torch', 'ray', 'pyarrow', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules) or 'nothing large')"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, *command.split()], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert "no such" in told[0]
    assert told[1:] == ["nothing large"]


def test_a_plan_of_one_trial_of_an_unknown_cost_says_so(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def make(): ...\n")
    (tmp_path / "own.yaml").write_text(
        "problem: {use: 'own:make'}\nupdate_rule: {learning_rate: 1}\ntrain: {steps: 10}\n"
    )
    document = plan_document(load_spec(tmp_path / "own.yaml"), tmp_path / "run")
    assert document["seconds"] is None
    text = plan_text(document)
    assert "unknown (no trial of this problem has run here yet)" in text
    assert "runs code: own:make from " in text


@pytest.mark.parametrize("spec", sorted((ROOT / "specs").glob("**/*.yaml")), ids=lambda path: path.stem)
def test_every_spec_that_is_shipped_is_valid_by_loader_and_schema(spec: Path) -> None:
    load_spec(spec)
    jsonschema.validate(yaml.safe_load(spec.read_text()), json_schema())


VIEW = View(
    counts={"done": 1, "running": 1},
    total=2,
    steps_done=150,
    steps_total=200,
    active=(Active(trial="learning_rate=1 [red]", step=50, steps=100, loss=2.5, clipped_fraction=0.25),),
    waiting=0,
    queued_snapshots=3,
    measuring=1,
    measured=7,
    held_back=True,
    stopping=False,
)


def test_the_live_region_shows_bar_trials_and_queue_and_takes_markup_for_text() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100, color_system=None)
    with LiveDisplay(console) as display:
        display.show(VIEW)
        display.say("done [bold]x")
    text = output.getvalue()
    for expected in ("75 %", "1 done", "learning_rate=1 [red]", "50/100", "loss 2.5", "clipped 25 %", "done [bold]x"):
        assert expected in text
    assert "estimators: 7 measured, 1 in progress, 3 queued; trainers wait for them" in text


def test_the_live_region_says_how_long_it_will_take_and_what_ctrl_c_does() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100, color_system=None)
    with LiveDisplay(console, hint="Ctrl-C stops") as display:
        display.show(replace(VIEW, elapsed_s=75.0, left_s=130.0))
        assert "1 min 15 s elapsed, about 2 min 10 s left" in output.getvalue()
        assert "Ctrl-C stops" in output.getvalue()
        output.seek(0)
        output.truncate()
        display.show(replace(VIEW, elapsed_s=80.0, stopping=True))
    assert "stopping" in output.getvalue()
    assert "Ctrl-C" not in output.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_region_fits_its_terminal_and_keeps_seed_and_numbers(width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, height=30, color_system=None)
    label = "learning_rate=1 clip_norm=0.25 a_rather_long_option_name=another_long_value seed=2"
    with LiveDisplay(console) as display:
        begun = len(output.getvalue())
        display.show(replace(VIEW, active=(replace(VIEW.active[0], trial=label),), elapsed_s=3725.0, left_s=7325.0))
        drawn = output.getvalue()[begun:]
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn))
    shown = next(line for line in lines if "learning" in line)
    for number in ("seed=2", "50/100", "loss 2.5", "clipped 25 %"):
        assert number in shown
    assert any("1 h 02 min elapsed, about 2 h 02 min left" in line for line in lines)
    assert max(map(len, lines)) <= width


def test_after_a_resize_the_screen_is_begun_again_with_the_last_lines() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100, height=20, color_system=None)
    with LiveDisplay(console) as display:
        for number in range(30):
            display.say(f"trial {number} done")
        display.show(VIEW)
        output.seek(0)
        output.truncate()
        display.show(VIEW)
        assert "\x1b[2J" not in output.getvalue(), "only after a resize"
        console.size = ConsoleDimensions(60, 20)
        output.seek(0)
        output.truncate()
        display.show(VIEW)
    before, cleared, after = output.getvalue().partition("\x1b[2J\x1b[H")
    assert cleared
    assert "trial" not in before
    assert [f"trial {number} done" in after for number in (0, 29)] == [False, True]
    assert "75 %" in after.rpartition("trial 29 done")[2]


def test_off_a_terminal_there_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    output, now = io.StringIO(), 500.0
    monkeypatch.setattr("sweeper.monitor.display.time.monotonic", lambda: now)
    display = LineDisplay(Console(file=output, width=200))
    for _ in range(1810):
        now += 0.1
        display.show(replace(VIEW, elapsed_s=now - 500, left_s=61.0))
    lines = [line[9:] for line in output.getvalue().splitlines()]
    assert lines == [
        f" 75 %: 1 done, 1 running; 7 snapshots measured; {minutes} elapsed, about 1 min 01 s left"
        for minutes in ("1 min 00 s", "2 min 00 s", "3 min 00 s")
    ]


def test_off_a_terminal_there_is_one_line_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    display: Any = choose_display(Console(file=output))
    assert isinstance(display, LineDisplay)
    with display:
        display.show(VIEW)
        display.say("trial [lr=1e-3] done")
    assert len(output.getvalue().splitlines()) == 1
    assert "trial [lr=1e-3] done" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7200, "2 h 00 min")]
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_data_is_listed_fetched_from_a_folder_and_found(
    tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSWEEP_CACHE", str(tmp_path / "cache"))
    listed = json.loads(clipsweep("data", "list", "--json", folder=tmp_path).stdout)[0]
    assert (listed["name"], listed["present"], listed["bytes"]) == ("ptb", False, 5_951_345)
    missing = clipsweep("data", "path", "ptb", folder=tmp_path, code=2)
    assert "clipsweep data fetch ptb" in missing.stderr
    assert "did you mean 'ptb'" in clipsweep("data", "fetch", "ptbb", folder=tmp_path, code=2).stderr
    refused = clipsweep("data", "fetch", "ptb", "--from", str(tmp_path), folder=tmp_path, code=2)
    assert "there is no file" in refused.stderr
    fetched = clipsweep("data", "fetch", "ptb", "--from", str(real_data / "ptb"), folder=tmp_path)
    assert clipsweep("data", "path", "ptb", folder=tmp_path).stdout == fetched.stdout
    assert "present" in clipsweep("data", "list", folder=tmp_path).stdout


@pytest.mark.parametrize(
    "problem",
    [f"language_modeling, model: {{use: {model}}}" for model in ("lstm", "awd_lstm", "gpt")]
    + [
        f"image_classification, model: {{use: {model}}}"
        for model in ("resnet20", "resnet18", "mlp", "logistic_regression")
    ],
)
def test_every_model_has_a_plan_with_time_and_disk(tmp_path: Path, problem: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"problem: {{use: {problem}}}\nupdate_rule: {{learning_rate: 0.1}}\ntrain: {{steps: 5}}\n")
    document = plan_document(load_spec(spec), tmp_path / "run")
    assert document["seconds"] > 0
    assert document["bytes"] > 0


def test_the_installed_command_is_the_command_line() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["clipsweep"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_ctrl_c_in_any_command_is_answered(tmp_path: Path) -> None:
    program = (
        "import sweeper.monitor.status as status\n"
        "def interrupted(*_): raise KeyboardInterrupt\n"
        "status.list_runs = interrupted\n"
        "from sweeper.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "ls"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.startswith("interrupted; what a run has committed is safe")


def test_a_list_of_one_kind_has_its_options_and_an_unknown_kind_is_told_the_known_ones(tmp_path: Path) -> None:
    shown = clipsweep("list", "schedules", folder=tmp_path).stdout
    assert "schedules (update_rule.schedule.use)" in shown
    assert "  factor      What the rate is multiplied by. (number > 0; default 0.1)\n" in shown
    assert max(map(len, shown.splitlines())) <= 120
    assert "lstm " in clipsweep("list", folder=tmp_path).stdout
    wrong = clipsweep("list", "scedules", folder=tmp_path, code=2).stderr
    assert "unknown kind 'scedules'; known: problems, functions," in wrong
    assert "did you mean 'schedules'?" in wrong


def test_the_version_is_that_of_the_package_and_loads_nothing_large(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert clipsweep("--version", folder=tmp_path).stdout == f"clipsweep {project['version']}\n"
    program = (
        "import sys; sys.argv = ['clipsweep', '-V']\n"
        "from sweeper.cli.app import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'pandas', 'numpy', 'pydantic', 'rich.console'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == f"clipsweep {project['version']}\n"
