"""No file is read by what could run code from it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("sweeper", "trainers", "estimators") for path in (ROOT / package).rglob("*.py"))

RESTRICTED = "trainers/data/pickled.py"
"""Reads CIFAR-10 with an unpickler that makes nothing but arrays; tests/trainers/data/test_pickled.py attacks it."""

RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
SAFE_WITH = {
    # Call to the argument without which, or with another value of which, it may run what it reads.
    "torch.load": ("weights_only", True),
    "np.load": None,  # refuses pickled objects unless it is told otherwise
    "numpy.load": None,
}
NEVER = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "os.system", "os.popen"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str | None, object]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), {word.arg: getattr(word.value, "value", None) for word in node.keywords}


def faults(source: str) -> list[str]:
    tree = ast.parse(source)
    found = [f"imports {name}" for name in imported(tree) if name in RUNS_CODE]
    for name, words in calls(tree):
        if name in NEVER:
            found.append(f"calls {name}")
        if (needed := SAFE_WITH.get(name)) is not None and words.get(needed[0]) is not needed[1]:
            found.append(f"calls {name} without {needed[0]}={needed[1]}")
        if words.get("allow_pickle"):
            found.append(f"{name} allows pickles")
    return found


def test_no_module_reads_files_with_what_could_run_them() -> None:
    found = {str(path.relative_to(ROOT)): faults(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert len(found) > 150
    assert {path: what for path, what in found.items() if what} == {RESTRICTED: ["imports pickle"]}


def test_what_is_looked_for_is_found() -> None:
    bad = "import pickle\nfrom dill import load\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nyaml.load(f)\neval(x)\n"
    assert len(faults(bad)) == 6
    assert faults("torch.load(f, weights_only=True)\nnp.load(f)\nyaml.safe_load(f)\nmodel.eval()\n") == []
