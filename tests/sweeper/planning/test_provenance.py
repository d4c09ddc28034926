"""What ``environment.json`` says of commits and GPUs, and that asking runs nothing of a repository's own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.planning import environment, revision
from sweeper.planning.environment import environment_of, provenance
from sweeper.planning.revision import revision_of
from sweeper.spec.sections.settings import Resources

SPEC = """
problem: {use: deep_linear, layers: 2, width: 3}
update_rule: {learning_rate: 0.01}
train: {steps: 2}
"""


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def program(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a file in a folder, at one commit of the branch ``trunk``."""
    root = tmp_path / "repository"
    (root / "specs").mkdir(parents=True)
    (root / "specs" / "one.yaml").write_text(SPEC)
    git(root, "init", "--quiet", "--initial-branch=trunk")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=one")
    return root


def test_a_folder_s_commit_branch_and_uncommitted_changes_are_told(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    clean = {"commit": head, "branch": "trunk", "uncommitted_changes": False}
    assert revision_of(repository / "specs") == clean
    (repository / "specs" / "unknown.yaml").write_text("")
    assert revision_of(repository / "specs") == clean, "files that git does not know are no changes"
    (repository / "specs" / "one.yaml").write_text("changed")
    git(repository, "checkout", "--quiet", "--detach")
    assert revision_of(repository) == {"commit": head, "branch": None, "uncommitted_changes": True}


def test_variables_that_point_git_elsewhere_are_not_followed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    found = revision_of(repository)
    assert found is not None
    assert found["uncommitted_changes"] is False


def test_a_folder_outside_any_repository_or_without_a_commit_has_none(tmp_path: Path) -> None:
    assert revision_of(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert revision_of(tmp_path) is None
    assert revision_of(tmp_path / "missing") is None


def test_a_package_installed_below_somebody_s_repository_is_not_at_its_commit(repository: Path) -> None:
    installed = repository / ".venv" / "sweeper"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert revision_of(installed, tracked=installed / "__init__.py") is None
    git(repository, "add", "--force", ".venv")
    assert revision_of(installed, tracked=installed / "__init__.py") is not None


def hostile_filter(root: Path, trap: Path) -> None:
    (root / ".gitattributes").write_text("* filter=evil\n")
    git(root, "config", "filter.evil.clean", str(trap))


def hostile_process(root: Path, trap: Path) -> None:
    (root / ".git" / "info" / "attributes").write_text("* filter=evil\n")
    git(root, "config", "filter.evil.process", str(trap))
    git(root, "config", "filter.evil.required", "true")


def hostile_filter_of_an_odd_name(root: Path, trap: Path) -> None:
    (root / ".gitattributes").write_text("* filter=a=b\n")
    git(root, "config", "filter.a=b.clean", str(trap))


def hostile_monitor(root: Path, trap: Path) -> None:
    git(root, "config", "core.fsmonitor", str(trap))


def hostile_hook(root: Path, trap: Path) -> None:
    hooks = root / "hooks"
    hooks.mkdir()
    program(hooks / "post-index-change", f"exec {trap}")
    git(root, "config", "core.hooksPath", str(hooks))


@pytest.mark.parametrize(
    "make", [hostile_filter, hostile_process, hostile_filter_of_an_odd_name, hostile_monitor, hostile_hook]
)
def test_asking_runs_no_program_that_a_repository_names(
    repository: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    sprung = tmp_path / "sprung"
    make(repository, program(tmp_path / "trap", f"touch {sprung}\ncat"))
    file = repository / "specs" / "one.yaml"
    # The same text at another time, so that git has to look into the file.
    os.utime(file, (1, 1))
    found = revision_of(repository / "specs", tracked=file)
    assert found is not None
    assert found["commit"] == git(repository, "rev-parse", "HEAD")
    assert not sprung.exists()
    subprocess.run(["git", "-C", str(repository), "status"], check=False, capture_output=True)
    assert sprung.exists(), "what a plain git status runs"


def test_a_partial_clone_fetches_nothing(repository: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = program(tmp_path / "trap", f"touch {sprung}")
    git(repository, "config", "remote.origin.url", f"ext::{trap}")
    git(repository, "config", "remote.origin.promisor", "true")
    git(repository, "config", "protocol.ext.allow", "always")
    git(repository, "config", "extensions.partialClone", "origin")
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    found = revision_of(repository)
    assert found is not None
    assert found["uncommitted_changes"] is None
    assert not sprung.exists()
    subprocess.run(["git", "-C", str(repository), "status"], check=False, capture_output=True)
    assert sprung.exists(), "what a plain git status runs"


@pytest.mark.parametrize("text", ["sleep 60", "exit 1", "echo nonsense"])
def test_a_git_that_hangs_or_fails_leaves_the_commit_out(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(revision, "_TIMEOUT_S", 0.2)
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder / "git", f"exec {text}" if text.startswith("sleep") else text)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert revision_of(repository) is None
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert revision_of(repository) is None


def test_gpus_are_named_by_nvidia_s_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance(tmp_path)["gpu_devices"] == []
    program(tmp_path / "nvidia-smi", "echo 'NVIDIA H100 80GB HBM3, 570.86.15, GPU-1'\necho; echo other")
    assert provenance(tmp_path)["gpu_devices"] == [
        {"name": "NVIDIA H100 80GB HBM3", "driver": "570.86.15", "uuid": "GPU-1"}
    ]
    program(tmp_path / "nvidia-smi", "echo 'no devices, were, found'; exit 9")
    assert provenance(tmp_path)["gpu_devices"] == []


@pytest.mark.parametrize(("line", "version"), [("Optional[str] = None", None), ("Optional[str] = '13.0'", "13.0")])
def test_torch_s_cuda_is_read_from_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, version: str | None
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: {line}\nhip: Optional[str] = '6'\n")

    class Distribution:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(environment.metadata, "distribution", lambda name: Distribution())
    assert environment._cuda() == version
    (tmp_path / "torch" / "version.py").unlink()
    assert environment._cuda() is None


def test_a_run_records_both_commits_beside_what_its_tables_are_hashed_with(
    repository: Path, inline_run: Callable[..., Any]
) -> None:
    run = inline_run(SPEC, name="repository/specs")()
    document = json.loads(run.run_dir.environment.read_bytes())
    assert document["revisions"]["spec"]["commit"] == git(repository, "rev-parse", "HEAD")
    assert set(document["revisions"]) == {"clipsweep", "spec"}
    assert not set(provenance(repository)) & set(environment_of(Resources()))
