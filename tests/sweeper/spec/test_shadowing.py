"""Packages of the user's own that go by the names of clipsweep's: what works beside them, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.check import check_sweep
from sweeper.errors import SpecError
from sweeper.null_test import null_test_document
from sweeper.own_packages import BESIDE, NAMES, own_folder
from sweeper.planning.plan import expand
from sweeper.run import run_sweep
from sweeper.spec import load_spec
from sweeper.spec.user_code import user_code
from trainers import imports

SPEC = "problem: {{use: '{use}'}}\nupdate_rule: {{learning_rate: 0.1}}\ntrain: {{steps: 3}}\n"
PROBLEM = """
import torch
from torch import nn
from trainers.problem import Problem

def one():
    return Problem(
        model=nn.Linear(2, 1), loss=lambda model, batch, carry: (SCALE * model(batch).square().mean(), carry),
        batch=lambda step: torch.ones(3, 2), probe=lambda fraction: [torch.ones(3, 2)],
        steps_per_epoch=1, fingerprint="one",
    )
"""
HOSTILE = "raise SystemExit('the package in the current folder was imported')\n"
ROOT = own_folder("sweeper").parent


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def spec(folder: Path, use: str) -> Path:
    (folder / "sweep.yaml").write_text(SPEC.format(use=use))
    return folder / "sweep.yaml"


WORKING = {
    "module of a package": ("{own}.of_mine:one", {"{own}/of_mine.py": "SCALE = 2.0\n" + PROBLEM}),
    "relative imports": (
        "{own}.of_mine:one",
        {"{own}/of_mine.py": "from .scales import SCALE\n" + PROBLEM, "{own}/scales.py": "SCALE = 2.0"},
    ),
    "package in a package": (
        "{own}.inner.of_mine:one",
        {
            "{own}/inner/of_mine.py": "from .. import numbers_\nSCALE = numbers_.X\n" + PROBLEM,
            "{own}/numbers_.py": "X = 1.0",
        },
    ),
    "beside a single file": (
        "single_one:one",
        {
            "single_one.py": "import {own}.scales\nSCALE = {own}.scales.SCALE\n" + PROBLEM,
            "{own}/scales.py": "SCALE = 2.0",
        },
    ),
    "one by another": (
        "single_two:one",
        {
            "single_two.py": "from {own}.scales import SCALE\n" + PROBLEM,
            "{own}/scales.py": "from {other} import more\nSCALE = more.SCALE",
            "{other}/more.py": "SCALE = 2.0",
        },
    ),
    "not used at all": ("single_three:one", {"single_three.py": "SCALE = 2.0\n" + PROBLEM, "{own}/data/x.py": HOSTILE}),
}  # fmt: skip


@pytest.mark.parametrize("own", NAMES)
@pytest.mark.parametrize("case", WORKING)
def test_modules_of_the_user_s_stand_beside_clipsweep_s(tmp_path: Path, case: str, own: str) -> None:
    use, files = WORKING[case]
    # A test can import a module of one name once only.
    other = NAMES[(NAMES.index(own) + 1) % 3]
    tag = f"{case.replace(' ', '_')}_{own}"
    named = {"of_mine": f"mine_{tag}", "scales": f"scales_{tag}", "inner": f"inner_{tag}", "numbers_": f"numbers_{tag}"}
    named |= {"more": f"more_{tag}", "single_": f"single_{own}_", "{own}": own, "{other}": other}

    def renamed(text: str) -> str:
        for old, new in named.items():
            text = text.replace(old, new)
        return text

    write(tmp_path, {renamed(name): renamed(text) for name, text in files.items()})
    for package in (own, other):
        if (tmp_path / package).is_dir():
            (tmp_path / package / "__init__.py").write_text(HOSTILE)
    sweep = load_spec(spec(tmp_path, renamed(use)))
    findings = [checked.finding for checked in check_sweep(sweep)]
    assert [finding for finding in findings if not finding.holds] == []
    if own == "trainers":  # the same way of importing, at three seconds a case
        assert null_test_document(sweep)["passed"]


def test_what_a_single_file_imports_from_such_a_package_belongs_to_its_hash(tmp_path: Path) -> None:
    write(tmp_path, {"my_model.py": "import trainers.extra\ndef one(): ...\n", "trainers/extra.py": "X = 1\n"})
    before = user_code("my_model:one", tmp_path)
    assert before is not None
    assert sorted(before.files) == ["my_model.py", "trainers/extra.py"]
    assert before.more == (tmp_path / "trainers",)
    (tmp_path / "trainers" / "extra.py").write_text("X = 2\n")
    after = user_code("my_model:one", tmp_path)
    assert after is not None
    assert before.sha256 != after.sha256


REFUSED = {
    "a module of the same name": (
        "trainers.mine:one",
        {"trainers/mine.py": "def one(): ...", "trainers/data/sets.py": ""},
        ["{folder}/trainers/data and clipsweep's own {root}/trainers/data are both", "rename yours, or the folder"],
    ),
    "a file of the same name": (
        "estimators.registry:one",
        {"estimators/registry.py": "def one(): ..."},
        ["{folder}/estimators/registry.py and clipsweep's own {root}/estimators/registry.py", "rename yours"],
    ),
    "a factory in the package's own file": (
        "trainers:one",
        {"trainers/__init__.py": "def one(): ..."},
        ["{folder}/trainers/__init__.py and clipsweep's own {root}/trainers/__init__.py", "'one'", "rename trainers"],
    ),
    "a single file": (
        "sweeper:one",
        {"sweeper.py": "def one(): ..."},
        ["{folder}/sweeper.py and clipsweep's own {root}/sweeper/__init__.py", "rename sweeper.py"],
    ),
    "a name from the package's own file": (
        "trainers.mine:one",
        {"trainers/__init__.py": "WIDTH = 3", "trainers/mine.py": "\nfrom trainers import WIDTH\ndef one(): ..."},
        ["{folder}/trainers/mine.py:2: takes 'WIDTH' from {folder}/trainers/__init__", "{root}/trainers/__init__.py"],
    ),
    "the same by a relative import": (
        "trainers.inner.mine:one",
        {"trainers/__init__.py": "WIDTH = 3", "trainers/inner/mine.py": "from .. import WIDTH\ndef one(): ..."},
        ["{folder}/trainers/inner/mine.py:1: takes 'WIDTH'", "rename trainers"],
    ),
    "a name that clipsweep's package has, too": (
        "trainers.mine:one",
        {"trainers/__init__.py": "def train(): ...", "trainers/mine.py": "from . import train\ndef one(): ..."},
        ["takes 'train' from {folder}/trainers/__init__.py"],
    ),
    "an attribute of the package": (
        "my_model:one",
        {"trainers/__init__.py": "WIDTH = 3", "my_model.py": "import trainers\ndef one(): return trainers.WIDTH"},
        ["{folder}/my_model.py:2: takes 'WIDTH' from {folder}/trainers/__init__.py", "rename trainers"],
    ),
    "a hidden module beside a single file": (
        "my_model:one",
        {"trainers/data/sets.py": "", "my_model.py": "import trainers.data.sets\ndef one(): ..."},
        ["{folder}/my_model.py:1: {folder}/trainers/data is hidden by clipsweep's own {root}/trainers/data"],
    ),
    "a hidden name beside a single file": (
        "my_model:one",
        {"trainers/problem.py": "MINE = 1", "my_model.py": "from trainers.problem import MINE\ndef one(): ..."},
        ["{folder}/trainers/problem.py is hidden by clipsweep's own {root}/trainers/problem.py"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_clash_is_refused_with_both_files_and_what_to_rename(
    tmp_path: Path, case: str, new_listener: Callable[[], Any]
) -> None:
    use, files, words = REFUSED[case]
    sweep = load_spec(spec(write(tmp_path, files), use))
    commands: list[Callable[[], Any]] = [
        lambda: expand(sweep),
        lambda: list(check_sweep(sweep)),
        lambda: run_sweep(sweep, out=tmp_path / "run", listener=new_listener()),
    ]
    for command in commands:
        with pytest.raises(SpecError, match=r"sweep\.yaml:1:16: problem\.use: ") as caught:
            command()
        for expected in words:
            assert expected.format(folder=tmp_path, root=ROOT) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_clipsweep_s_own_checkout_shadows_nothing() -> None:
    found = user_code("trainers.problems.deep_linear:deep_linear", ROOT)
    assert found is not None
    assert found.more == ()


@pytest.mark.parametrize("arguments", [["plan", "sweep.yaml"], ["validate", "sweep.yaml"], ["check", "sweep.yaml"]])
def test_hostile_packages_in_the_current_folder_are_not_imported(tmp_path: Path, arguments: list[str]) -> None:
    spec(tmp_path, "deep_linear")
    # ``python -m sweeper`` would be the current folder's own, before anything of clipsweep's runs.
    write(tmp_path, {f"{name}/__init__.py": HOSTILE for name in ("trainers", "estimators")})
    run = [sys.executable, "-m", "sweeper", *arguments]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    write(tmp_path, {"sweeper/__init__.py": HOSTILE})
    run.insert(1, "-P")
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_package_that_was_imported_before_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"trainers/__init__.py": ""})
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import trainers; sys.path.pop(0); import sweeper"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    last = done.stderr.strip().rpartition("\n")[2]
    assert f"{tmp_path}/trainers/__init__.py was imported as 'trainers'" in last
    assert "import clipsweep first, or rename yours" in last


def test_both_sides_mean_the_same_packages_and_the_same_folder() -> None:
    assert (imports._OURS, imports._BESIDE) == (NAMES, BESIDE)


@pytest.mark.parametrize(
    ("module", "whose"),
    [("random", "one of Python's own"), ("queue", "one of Python's own"), ("torch", "the library torch")],
)
def test_a_module_that_workers_have_imported_already_is_refused_with_what_to_rename(
    tmp_path: Path, module: str, whose: str
) -> None:
    write(tmp_path, {f"{module}.py": "def build(*, seed):\n    pass\n"})
    with pytest.raises(SpecError, match=f"a module '{module}' of yours cannot be imported beside {whose}: rename it"):
        user_code(f"{module}:build", tmp_path)


def test_what_is_installed_may_have_any_name() -> None:
    assert user_code("torch.nn:Linear", Path("/")) is not None
