"""Code that a spec or a run names is told before it is run, and asked for where it does not lie beside the spec."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.check import check_sweep
from sweeper.errors import ClipsweepError
from sweeper.null_test import null_test_document
from sweeper.planning.plan import expand
from sweeper.protocol.consent import Consent
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import KeptSnapshot, Raised
from sweeper.remeasure import estimate_run, remeasure_section, uses_of
from sweeper.run import run_sweep
from sweeper.spec import load_spec
from sweeper.spec.user_code import user_code
from sweeper.store.journal import open_state
from sweeper.store.planned_trials import CodeRecord
from sweeper.workers.snapshots import keep_snapshot, read_header, read_iterates

SPEC = "problem: {{use: '{use}'}}\nupdate_rule: {{learning_rate: 0.1}}\ntrain: {{steps: 3}}\n"
OWN = """
import torch
from torch import nn
from trainers.problem import Problem

def one():
    return Problem(
        model=nn.Linear(2, 1), loss=lambda model, batch, carry: (model(batch).square().mean(), carry),
        batch=lambda step: torch.ones(3, 2), probe=lambda fraction: [torch.ones(3, 2)],
        steps_per_epoch=1, fingerprint="one",
    )
"""


def clipsweep(*arguments: str, folder: Path, code: int = 0, path: Path | None = None) -> tuple[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-m", "sweeper", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a spec that names ``far_problem:one``, and another one with that module."""
    project, library = tmp_path / "project", tmp_path / "library"
    project.mkdir()
    library.mkdir()
    (project / "sweep.yaml").write_text(SPEC.format(use="far_problem:one"))
    (library / "far_problem.py").write_text(OWN)
    return project, library


@pytest.mark.parametrize("command", [["run"], ["check"], ["null-test"]], ids=lambda command: command[0])
def test_what_would_import_code_from_elsewhere_asks_for_allow_code_in_one_line(
    folders: tuple[Path, Path], command: list[str]
) -> None:
    project, library = folders
    (library / "far_problem.py").write_text(f"{OWN}\nopen({str(project / 'imported')!r}, 'w')\n")
    out, error = clipsweep(*command, "sweep.yaml", folder=project, path=library, code=2)
    assert out == ""
    assert error.count("\n") == 1
    assert f"far_problem:one from {library / 'far_problem.py'}; continue with --allow-code if you trust it" in error
    assert f"outside its own folder ({project})" in error
    assert sorted(path.name for path in project.iterdir()) == ["sweep.yaml"], "nothing was imported, nothing written"


@pytest.mark.parametrize("command", ["plan", "validate", "run", "check", "null-test"])
def test_a_spec_that_names_a_function_of_pythons_own_does_not_run_it(tmp_path: Path, command: str) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "problem: {use: 'os:system', command: touch owned}\nupdate_rule: {learning_rate: 1}\ntrain: {steps: 1}\n"
    )
    _, error = clipsweep(command, "sweep.yaml", folder=tmp_path, code=0 if command in {"plan", "validate"} else 2)
    assert not (tmp_path / "owned").exists()
    assert command in {"plan", "validate"} or ("os:system from " in error and "--allow-code" in error)


def test_with_the_option_the_same_code_is_run(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    project, library = folders
    monkeypatch.syspath_prepend(str(library))
    sweep = load_spec(project / "sweep.yaml")
    assert all(checked.finding.holds for checked in check_sweep(sweep, allow_code=True))
    assert null_test_document(sweep, allow_code=True)["passed"]


def test_a_plan_says_which_code_a_run_would_import_and_imports_none(folders: tuple[Path, Path]) -> None:
    project, library = folders
    (library / "far_problem.py").write_text("def one(): ...\nraise SystemExit('imported')\n")
    text, _ = clipsweep("plan", "sweep.yaml", folder=project, path=library)
    document = json.loads(clipsweep("plan", "sweep.yaml", "--json", folder=project, path=library)[0])
    (code,) = document["code"]
    assert code == {
        "use": "far_problem:one",
        "module": "far_problem",
        "path": str(library / "far_problem.py"),
        "real_path": str(library / "far_problem.py"),
        "files": 1,
        "sha256": expand_hash(project, library),
        "beside_spec": False,
    }
    assert document["asks_for"] == ["--allow-code"]
    first = f"  runs code: far_problem:one from {library}/far_problem.py (1 Python file, sha256 {code['sha256'][:12]})"
    assert first in text
    assert "not in the spec's own folder, so a run asks for --allow-code" in text
    assert "asks for --allow-code, or for another --out" not in text, "another directory would not help"


def expand_hash(project: Path, library: Path) -> str:
    found = user_code("far_problem:one", project, search=[str(library)])
    assert found is not None
    return found.sha256


def test_code_beside_the_spec_is_told_and_not_asked_for(folders: tuple[Path, Path]) -> None:
    project, library = folders
    (library / "far_problem.py").rename(project / "far_problem.py")
    text, _ = clipsweep("plan", "sweep.yaml", folder=library.parent / "library", code=2)
    text, _ = clipsweep("plan", str(project / "sweep.yaml"), folder=library)
    assert f"runs code: far_problem:one from {project}/far_problem.py (1 Python file" in text
    assert "next to the spec\n" in text
    assert "--allow-code" not in text
    assert all(checked.finding.holds for checked in check_sweep(load_spec(project / "sweep.yaml")))


def beside(use: str, folder: Path, *, search: list[str] | None = None) -> bool:
    found = user_code(use, folder, search=search)
    assert found is not None
    return found.beside


def test_beside_the_spec_means_with_every_file_and_links_followed(folders: tuple[Path, Path]) -> None:
    project, library = folders
    (project / "linked.py").symlink_to(library / "far_problem.py")
    assert not beside("linked:one", project)
    package = project / "package"
    package.mkdir()
    (package / "__init__.py").write_text("one = 1\n")
    assert beside("package:one", project)
    (package / "inner").symlink_to(library)
    assert not beside("package:one", project)
    (package / "inner").unlink()
    (package / "more.py").symlink_to(library / "far_problem.py")
    assert not beside("package:one", project)
    (package / "more.py").unlink()
    (package / "again.py").symlink_to(package / "__init__.py")
    assert beside("package:one", project)


def test_a_link_is_named_with_where_it_leads(folders: tuple[Path, Path], new_listener: Callable[[], Any]) -> None:
    project, library = folders
    (project / "linked.py").symlink_to(library / "far_problem.py")
    (project / "sweep.yaml").write_text(SPEC.format(use="linked:one"))
    text, _ = clipsweep("plan", "sweep.yaml", folder=project)
    assert f"linked:one from {project}/linked.py, a link to {library}/far_problem.py (1 Python file" in text
    sweep = load_spec(project / "sweep.yaml")
    with pytest.raises(
        ClipsweepError, match=rf"linked\.py \(really {library}/far_problem\.py\); continue with --allow-c"
    ):
        run_sweep(sweep, out=project / "run", listener=new_listener())
    assert null_test_document(sweep, allow_code=True)["passed"], "it is imported by the name of the link"


def test_a_spec_that_is_reached_over_a_link_has_its_code_beside_it(folders: tuple[Path, Path]) -> None:
    project, library = folders
    (library / "far_problem.py").rename(project / "far_problem.py")
    other = project.parent / "other"
    other.symlink_to(project)
    assert all(code.beside for code in expand(load_spec(other / "sweep.yaml")).code)


def test_what_is_installed_is_never_beside_a_spec(tmp_path: Path) -> None:
    installed = tmp_path / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "package.py").write_text("one = 1\n")
    assert not beside("package:one", tmp_path, search=[str(installed)])
    assert not beside("json:dumps", Path(json.__file__).parents[1])
    assert not beside("json:dumps", Path("/"))


def test_a_package_that_links_to_itself_is_read_to_an_end(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("one = 1\n")
    (package / "round").symlink_to(package)
    assert beside("package:one", tmp_path)


# Kept snapshots


KEPT = """
name: kept
problem: {use: deep_linear, layers: 2, width: 3, samples: 8, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 2}
measure: {every: 1, keep: true, data_fraction: 1}
"""


@pytest.fixture
def kept(inline_run: Callable[..., Any]) -> Any:
    """A run with kept snapshots, whose journal says that its trial was trained with code from elsewhere."""
    return inline_run(KEPT)()


def with_code(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let the journal say that trials were trained with this code."""
    import sweeper.remeasure as remeasure

    found = user_code(f"{file.stem}:one", file.parent)
    assert found is not None
    real = remeasure.recover

    def recover(*arguments: Any) -> Any:
        state = real(*arguments)
        for trial in state.trials.values():
            code = CodeRecord(use=found.use, root=found.root, sha256=found.sha256)
            trial.record = replace(trial.record, code=code)
        return state

    def on_ray(*arguments: Any, code: list[Any], uses: dict[str, str], **options: Any) -> tuple[int, bool]:
        assert [one.use for one in code] == [found.use]
        assert set(uses.values()) == {found.use}
        raise Started

    monkeypatch.setattr(remeasure, "recover", recover)
    monkeypatch.setattr(remeasure, "_on_ray", on_ray)


class Started(Exception):
    """Workers would be started."""


def test_estimate_runs_code_above_the_run_and_in_the_working_directory_and_asks_for_other(
    kept: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_listener: Callable[[], Any]
) -> None:
    path = kept.run_dir.path
    for folder in (path.parent, tmp_path / "elsewhere"):
        folder.mkdir(exist_ok=True)
        (folder / "far_problem.py").write_text(OWN)
    with_code(monkeypatch, path.parent / "far_problem.py")
    with pytest.raises(Started):
        estimate_run(path, "directional_curvature", listener=new_listener())
    with_code(monkeypatch, tmp_path / "elsewhere" / "far_problem.py")
    with pytest.raises(ClipsweepError, match=r"neither in a folder above the run nor in the working .*--allow-code"):
        estimate_run(path, "directional_curvature", listener=new_listener())
    with pytest.raises(Started):
        estimate_run(path, "directional_curvature", listener=new_listener(), consent=Consent(code=True))
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(Started):
        estimate_run(path, "directional_curvature", listener=new_listener())


def test_a_snapshots_file_cannot_have_other_code_run_than_its_trial_was_trained_with(kept: Any, tmp_path: Path) -> None:
    run_dir = kept.run_dir
    path = sorted((run_dir.path / "snapshots").glob("*/*"))[0]
    forged = {"use": "os:system", "command": f"touch {tmp_path / 'owned'}"}
    keep_snapshot(run_dir, replace(read_header(path, {}), problem=forged), read_iterates(path))
    section = remeasure_section(run_dir, "directional_curvature", [])
    kept.pools.start_estimator(0)
    worker = kept.pools.estimators[0]
    for use in (None, "far_problem:one"):
        asked = KeptSnapshot(trial=path.parent.name, step=0, use=use, measure=section)
        verdict = worker.measure_kept(0, SnapshotId(path.parent.name, 0, 0), asked)
        assert isinstance(verdict, Raised)
        assert "would run os:system, but its trial was not trained with that" in verdict.error
    assert not (tmp_path / "owned").exists()
    assert uses_of(open_state(run_dir), [SnapshotId(path.parent.name, 0, 0)]) == {}
