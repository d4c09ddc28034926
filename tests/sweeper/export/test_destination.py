"""The folder of an export: what a second export replaces, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.errors import ClipsweepError
from sweeper.export.destination import MANIFEST, Destination
from sweeper.export.names import cell_folder, safe_name
from sweeper.export.registry import TARGETS, export_run
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

Files = Callable[[Path], list[str]]


def place(run: Run, folder: Path, target: str = "csv") -> Destination:
    return Destination(folder, target=target, run_dir=RunDir(run.path))


def test_an_export_that_fails_leaves_the_last_one_as_it_was(small_run: Run, tmp_path: Path, files_in: Files) -> None:
    with place(small_run, tmp_path / "to") as to:
        to.new_file("a", "one").write_text("first")

    def fail() -> None:
        with place(small_run, tmp_path / "to") as to:
            to.new_file("a", "one").write_text("second")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert (tmp_path / "to" / "a" / "one").read_text() == "first"
    assert files_in(tmp_path / "to") == ["a/one", MANIFEST]


def test_what_the_next_export_has_not_is_removed_with_its_folder_and_other_files_stay(
    small_run: Run, tmp_path: Path, files_in: Files
) -> None:
    with place(small_run, tmp_path / "to") as to:
        to.new_file("old", "one").write_text("1")
    (tmp_path / "to" / "mine.txt").write_text("not yours")
    with place(small_run, tmp_path / "to") as to:
        to.new_file("new", "two").write_text("2")
    assert files_in(tmp_path / "to") == [MANIFEST, "mine.txt", "new/two"]
    assert not (tmp_path / "to" / "old").exists()


def test_a_file_of_somebody_else_is_not_replaced(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "trials.csv").write_text("mine")
    with pytest.raises(ClipsweepError, match="no file of an earlier export"):
        export_run(small_run.path, "csv", tmp_path)
    assert (tmp_path / "trials.csv").read_text() == "mine"
    assert not (tmp_path / "metrics.csv").exists()


def test_the_export_of_another_run_or_target_is_not_replaced(small_run: Run, hostile_run: Run, tmp_path: Path) -> None:
    export_run(small_run.path, "csv", tmp_path / "to")
    for run, target in ((hostile_run, "csv"), (small_run, "latex")):
        with pytest.raises(ClipsweepError, match="another run or for another target"):
            export_run(run.path, target, tmp_path / "to")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_manifest_that_names_files_outside_its_folder_is_refused(small_run: Run, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("keep")
    with place(small_run, tmp_path / "to") as to:
        to.new_file("one").write_text("1")
    manifest = tmp_path / "to" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": [name]}))
    with pytest.raises(ClipsweepError, match="names files outside"):
        place(small_run, tmp_path / "to")
    assert outside.exists()


def test_a_link_does_not_lead_an_export_out_of_its_folder(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "measurements").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClipsweepError, match="leads out of"):
        export_run(small_run.path, "csv", tmp_path / "to")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_export_never_goes_into_the_run_directory_and_is_beside_it_by_default(small_run: Run) -> None:
    with pytest.raises(ClipsweepError, match="inside the run directory"):
        export_run(small_run.path, "csv", small_run.path / "csv")
    found = export_run(small_run.path, "csv")
    assert found.to == small_run.path.with_name("small-csv")
    assert found.bytes == sum(
        (found.to / f"{name}.csv").stat().st_size
        for name in ("trials", "metrics", "telemetry", "measurements/directional_smoothness")
    )


def test_an_unknown_target_and_a_missing_package_are_told_with_what_to_do(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClipsweepError, match="known: tensorboard, wandb, mlflow, csv, latex"):
        export_run(small_run.path, "aim")
    monkeypatch.setattr("sweeper.export.registry.find_spec", lambda name: None)
    for name, target in TARGETS.items():
        if target.extra:
            with pytest.raises(ClipsweepError, match=rf"pip install 'clipsweep\[{target.extra}\]'"):
                export_run(small_run.path, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_are_safe_short_and_different_for_different_texts() -> None:
    texts = ["../..", "..", ".", "", "a/b", "a_b", "a\nb", "%", "x" * 5000, "x" * 5001, "-rf", "CON", "ü", "\udc80"]
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(name and len(name) < 100 and name[0] not in ".-" and not set(name) & set("/\\\n\0%") for name in names)
    assert cell_folder("same", "1") != cell_folder("same", "2")
