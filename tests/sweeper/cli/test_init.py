"""What ``init`` writes runs as it is, is what the repository ships, is known to editors, and overwrites nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli import init as command
from sweeper.cli.app import app, main
from sweeper.planning.plan import expand, measurement_id
from sweeper.spec import json_schema, load_spec, starter_spec
from sweeper.spec.starter import MODULES, TEMPLATES

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = {"quickstart": "quickstart.yaml", "figure2": "small/figure2.yaml", "theory": "theory/phase.yaml"}

Init = Callable[..., tuple[int, str, str]]


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """``init("a.yaml")`` in an empty folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def given(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["clipsweep", "init", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return given


def test_the_command_names_every_template_there_is() -> None:
    assert command._TEMPLATES == TEMPLATES
    folder = ROOT / "sweeper" / "spec" / "templates"
    files = {f"{name}.yaml" for name in TEMPLATES} | {f"{module}.txt" for module in MODULES.values()}
    assert {path.name for path in folder.iterdir()} == files


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_a_spec_whose_comments_are_about_the_file_it_is_in(
    init: Init, template: str, tmp_path: Path
) -> None:
    assert init("mine.yaml", "--template", template)[0] == 0
    text = (tmp_path / "mine.yaml").read_text()
    sweep = load_spec(Path("mine.yaml"))
    assert sweep.name == "mine"
    assert expand(sweep).trials
    assert "specs/" not in text
    assert "clipsweep run mine.yaml" in text
    assert set(part.split()[0] for part in text.split("runs/")[1:]) == {"mine"}


@pytest.mark.parametrize("template", SHIPPED)
def test_a_template_trains_and_measures_what_the_shipped_spec_does(template: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(starter_spec(Path("sweep.yaml"), template))
    own, shipped = load_spec(tmp_path / "sweep.yaml"), load_spec(ROOT / "specs" / SHIPPED[template])
    assert [trial.trial_id for trial in expand(own).trials] == [trial.trial_id for trial in expand(shipped).trials]
    assert measurement_id(own.measure, ()) == measurement_id(shipped.measure, ())
    assert own.resources == shipped.resources
    if template != "figure2":  # the shipped one is laid over that of the paper's size
        kept = ROOT / "sweeper" / "spec" / "templates" / f"{template}.yaml"
        assert kept.read_text() == (ROOT / "specs" / SHIPPED[template]).read_text()


def test_a_problem_of_one_s_own_keeps_every_promise(init: Init) -> None:
    code, _, said = init("own.yaml", "--template", "own")
    assert (code, "try `clipsweep check own.yaml`" in said) == (0, True)
    done = CliRunner().invoke(app, ["check", "own.yaml", "--json"])
    assert done.exit_code == 0, done.output
    assert {row["status"] for row in json.loads(done.stdout)} == {"ok"}


def test_the_first_line_names_a_schema_that_lies_beside_the_spec(init: Init, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    init("below/a.yaml")
    first = (tmp_path / "below" / "a.yaml").read_text().splitlines()[0]
    key, _, named = first.partition("$schema=")
    assert key == "# yaml-language-server: "
    # As the language server reads it: relative to the spec.
    assert json.loads((tmp_path / "below" / named).read_text()) == json.loads(json.dumps(json_schema()))
    init("b.yaml", "--no-schema")
    assert not (tmp_path / named).exists()
    assert "$schema" not in (tmp_path / "b.yaml").read_text()


def test_nothing_that_exists_is_overwritten(init: Init, tmp_path: Path) -> None:
    for name in ("a.yaml", "my_problem.py", ".clipsweep-schema.json"):
        (tmp_path / name).write_text("mine\n")
    code, _, said = init("a.yaml")
    assert (code, "already exists; give another name, or --force" in said) == (2, True)
    code, _, said = init("b.yaml", "--template", "own")
    assert (code, "my_problem.py: already exists, and is kept" in said) == (2, True)
    assert not (tmp_path / "b.yaml").exists()
    assert init("a.yaml", "--force", "--template", "own")[0] == 2, "--force is about the spec alone"
    assert [(tmp_path / name).read_text() for name in ("a.yaml", "my_problem.py")] == ["mine\n"] * 2
    code, _, said = init("a.yaml", "--force")
    assert (code, "`clipsweep schema > .clipsweep-schema.json` renews it" in said) == (0, True)
    assert (tmp_path / ".clipsweep-schema.json").read_text() == "mine\n"
    assert "sweep:" in (tmp_path / "a.yaml").read_text()


def test_two_specs_share_a_folder_its_schema_and_its_problem(init: Init) -> None:
    assert [init(name, "--template", "own")[0] for name in ("a.yaml", "b.yaml")] == [0, 0]


def test_standard_output_gets_the_spec_alone(init: Init, tmp_path: Path) -> None:
    code, shown, _ = init("-", "--template", "quickstart")
    assert (code, shown) == (0, starter_spec(Path("sweep.yaml"), "quickstart"))
    assert init("-", "--template", "own")[0] == 2
    assert os.listdir(tmp_path) == []
