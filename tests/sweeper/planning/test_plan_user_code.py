"""Problems of the user's own: found beside the spec, hashed, never imported."""

import sys
from pathlib import Path

import pytest

from sweeper.errors import SpecError
from sweeper.planning.plan import expand, user_code
from sweeper.spec import loads_spec

SPEC = "{{problem: {{use: '{use}'}}, update_rule: {{learning_rate: 1}}, train: {{steps: 1}}}}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a module and a package, either of which would end the test if it were imported."""
    (tmp_path / "single.py").write_text("def factory(): ...\nraise SystemExit('imported')\n")
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "mod.py").write_text("from package.inner import *\nWIDTH = 3\n")
    (package / "inner" / "__init__.py").write_text("from math import sqrt as root\nif True:\n    def made(): ...\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path


def trial_id(project: Path, use: str) -> str:
    (trial,) = expand(loads_spec(SPEC.format(use=use), folder=project)).trials
    return trial.trial_id


def test_registered_problems_need_no_code(tmp_path):
    assert user_code("deep_linear", tmp_path) is None


@pytest.mark.parametrize(
    ("use", "root"),
    [
        ("single:factory", "single.py"),
        ("package.mod:anything", "package"),
        ("package.inner:made", "package"),
        ("package.inner:root", "package"),
    ],
)
def test_what_must_be_shipped_is_the_file_or_the_whole_package(project, use, root):
    found = user_code(use, project)
    assert found is not None
    assert found.root == project / root
    assert len(found.sha256) == 64
    assert "package" not in sys.modules


def test_a_plan_lists_the_code_that_its_trials_need(project):
    plan = expand(loads_spec(SPEC.format(use="single:factory"), folder=project))
    assert [code.root.name for code in plan.code] == ["single.py"]


def test_namespace_packages_are_found(project):
    (project / "space").mkdir()
    (project / "space" / "mod.py").write_text("factory = 1\n")
    found = user_code("space.mod:factory", project)
    assert found is not None
    assert found.root == project / "space"


def test_the_folder_of_the_spec_goes_before_the_working_directory_and_the_path(project, monkeypatch):
    other = project / "elsewhere"
    (other / "single.py").write_text("def factory(): return 2\n")
    first, second = user_code("single:factory", project), user_code("single:factory", project / "nowhere")
    assert first is not None
    assert second is not None
    assert (first.root, second.root) == (project / "single.py", other / "single.py")
    monkeypatch.syspath_prepend(str(project))
    (other / "single.py").unlink()
    third = user_code("single:factory", project / "nowhere")
    assert third == first


def test_any_change_of_a_python_file_changes_the_id(project):
    before = trial_id(project, "package.mod:WIDTH")
    (project / "package" / "inner" / "__init__.py").write_text("made = 2\n")
    after = trial_id(project, "package.mod:WIDTH")
    (project / "package" / "new.py").write_text("")
    assert len({before, after, trial_id(project, "package.mod:WIDTH")}) == 3


def test_moved_bytes_between_files_change_the_hash(project):
    (project / "package" / "a.py").write_text("x = 1\ny = 2\n")
    (project / "package" / "b.py").write_text("")
    before = user_code("package.mod:WIDTH", project)
    (project / "package" / "a.py").write_text("x = 1\n")
    (project / "package" / "b.py").write_text("y = 2\n")
    assert user_code("package.mod:WIDTH", project) != before


def test_caches_data_and_hidden_files_do_not_change_the_id(project):
    before = trial_id(project, "package.mod:WIDTH")
    for name in ("__pycache__/mod.py", ".git/hook.py", "data.bin", ".hidden.py"):
        file = project / "package" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    assert trial_id(project, "package.mod:WIDTH") == before


def test_the_project_may_move(project, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "project"
    before = trial_id(project, "package.mod:WIDTH")
    project.rename(moved)
    assert trial_id(moved, "package.mod:WIDTH") == before


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("nothing:factory", r"no module 'nothing': there is no nothing\.py and no folder nothing in "),
        ("package.mdo:factory", r"no module 'package\.mdo': .*does not have it; did you mean package\.mod\?"),
        ("single:factroy", r"single\.py has no 'factroy'; did you mean 'factory'\?"),
    ],
)
def test_what_is_not_there_is_named_at_its_place_in_the_spec(project, use, message):
    with pytest.raises(SpecError, match=rf"s\.yaml:1:17: problem\.use: .*{message}"):
        expand(loads_spec(SPEC.format(use=use), name="s.yaml", folder=project))


def test_a_file_that_is_not_python_is_named_with_its_line(project):
    (project / "single.py").write_text("x = 1\ndef factory(:\n")
    with pytest.raises(SpecError, match=r"single\.py:2: is not valid Python"):
        user_code("single:factory", project)
    (project / "single.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(SpecError, match=r"is not valid Python"):
        user_code("single:factory", project)


def test_names_that_only_running_would_show_are_believed(project):
    (project / "single.py").write_text("def __getattr__(name): ...\n")
    assert user_code("single:whatever", project) is not None


@pytest.mark.parametrize(
    "body",
    ["factory = 1", "factory: int = 1", "a, factory = 1, 2", "import os as factory", "class factory: ...",
     "for factory in (): ...", "with open('x') as factory: ...", "try:\n    import factory\nexcept ImportError: ...",
     "async def factory(): ..."],
)  # fmt: skip
def test_every_way_to_bind_a_name_counts(project, body):
    (project / "single.py").write_text(body)
    assert user_code("single:factory", project) is not None
