"""Every command that README and the manual show is one that exists, with options that exist, on files that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from sweeper.cli.app import app
from sweeper.planning.expectation import expected
from sweeper.planning.plan import expand
from sweeper.report.plots.draw import PLOTS
from sweeper.spec import load_spec, loads_spec, starter_spec
from sweeper.store.journal import RunState

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SPECS = [*sorted((ROOT / "specs").rglob("*.yaml"))]
BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
STANDS_FOR = re.compile(r"[A-Z]+|[<\[].*|.*\.\.\..*|\$.*")


def commands() -> list[tuple[str, str]]:
    """Page and command, of every line of a shell block and every comment of a spec that calls clipsweep."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ").partition("  #")[0].strip()
                if line.startswith("clipsweep "):
                    found.append((str(page.relative_to(ROOT)), line))
    for spec in SPECS:
        for line in spec.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"#\s+(clipsweep [^#]+)", line):
                found.append((str(spec.relative_to(ROOT)), match[1].strip()))
    return found


COMMANDS = commands()


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 40
    assert len({page for page, _ in COMMANDS}) > 15


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_a_command_that_is_shown_can_be_given(page: str, line: str) -> None:
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0].partition(" < ")[0].removesuffix(" &"))[1:]
    command, rest = typer.main.get_command(app), words
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    # Raises for an unknown option, a missing argument, and one too many.
    parsed = command.make_context(words[0], [word for word in rest if word != "..."]).params
    named = parsed.get("spec")
    if named is not None and str(named) != "-" and not STANDS_FOR.fullmatch(str(named)):
        at_hand = [ROOT / named, ROOT / "docs" / named, (ROOT / page).parent / named]
        written = {"sweep.yaml", "my-sweep.yaml", "spec.yaml", "my_spec.yaml"}
        assert Path(named).name in written or any(path.is_file() for path in at_hand), f"{named} is not there"
    if words[0] == "plot" and not STANDS_FOR.fullmatch(parsed["kind"]):
        assert parsed["kind"] in PLOTS


@pytest.mark.parametrize("name", ["sweep.yaml", "my first sweep.yaml", "a.b.yml", "-.yaml", "x" * 80 + ".yaml"])
def test_a_starter_s_runs_go_where_its_own_comments_say(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(starter_spec(file))
    sweep = load_spec(file)
    assert f"clipsweep report runs/{sweep.name}\n" in file.read_text()
    assert f"clipsweep run {name} " in file.read_text()
    assert "starter" not in file.read_text()
    # What the spec would be called without the line is what it says.
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("name:")))
    assert load_spec(file).name == sweep.name


def test_the_spec_that_readme_shows_runs_on_a_laptop() -> None:
    (text,) = re.findall(
        r"^```yaml\n(name: .*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    sweep = loads_spec(text, folder=ROOT)
    plan = expand(sweep)
    assert sum(expected(sweep, plan, RunState(), num_left=len(plan.trials)).work.values()) < 600, "seconds of one core"


@pytest.mark.parametrize(
    "spec", [ROOT / "specs" / "quickstart.yaml", *sorted((ROOT / "specs" / "small").glob("*.yaml"))]
)
def test_what_calls_itself_small_is_minutes_of_two_cores(spec: Path) -> None:
    sweep = load_spec(spec)
    plan = expand(sweep)
    assert sum(expected(sweep, plan, RunState(), num_left=len(plan.trials)).work.values()) < 600, "seconds of one core"
