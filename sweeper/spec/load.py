"""From a spec file to a :class:`Sweep`, or to everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sweeper.errors import SpecError
from sweeper.spec.cells import Cell, Template, build_cells, check_size, ends_of
from sweeper.spec.paths import TRAINED, check_paths, searched_paths, swept_paths, written_paths
from sweeper.spec.sections.axes import SweepBlock
from sweeper.spec.sections.hooks import Hooks
from sweeper.spec.sections.measure import Measure
from sweeper.spec.sections.problems import PROBLEM_OPTIONS, OwnProblem
from sweeper.spec.sections.search import Halving
from sweeper.spec.sections.settings import Cluster, Resources, Train
from sweeper.spec.sections.update_rule import UpdateRule
from sweeper.spec.sections.values import Section
from sweeper.spec.sweep import Sweep, name_of
from sweeper.spec.syntax.diagnostics import Diagnostic, at, raise_if_any, shown
from sweeper.spec.syntax.overlay import laid_over, read_text
from sweeper.spec.syntax.overrides import apply_overrides
from sweeper.spec.syntax.reader import MAX_BYTES, read
from sweeper.spec.syntax.tree import Mark, Node, Source, plain, substitute
from sweeper.spec.validation import known_paths, validated
from sweeper.spec.variants import check_alone

__all__ = ["NAME_PATTERN", "SECTIONS", "check_measure", "load_spec", "loads_spec"]

SECTIONS = ("name", *TRAINED, "measure", "metrics", "sweep", "resources", "cluster", "on")
"""Keys of the top level, in the order in which the manual explains them."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_S = TypeVar("_S", bound=Section)


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read and check a spec file.

    Args:
        path: The file.
        overrides: ``path=value`` each, in place of what the file says.

    Returns:
        The sweep.

    Raises:
        SpecError: The file cannot be read, or is not a spec; all problems at once.
    """
    path = Path(path)
    text = read_text(path)
    # The same folder may be named in two ways, and a relative path would change with the working directory.
    return _load(text, str(path), path.absolute().parent, path.absolute(), overrides)


def loads_spec(text: str, *, name: str = "<spec>", folder: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Check a spec given as text.

    Args:
        text: The spec, in YAML.
        name: What messages call it.
        folder: What relative paths in it are relative to.
        overrides: ``path=value`` each, in place of what the text says.

    Returns:
        The sweep.

    Raises:
        SpecError: It is not a spec; all problems at once.

    Example:
        >>> spec = "{problem: {use: deep_linear}, update_rule: {learning_rate: 0.1}, train: {steps: 5}}"
        >>> loads_spec(spec, folder=Path(), overrides=["train.steps=7"]).train.steps
        7
    """
    if len(text) > MAX_BYTES:
        raise SpecError(f"{name}: is larger than a megabyte, too large for a spec")
    return _load(text, name, folder.absolute(), None, overrides)


def check_measure(
    section: Mapping[str, Any], overrides: Sequence[str] = (), *, name: str, shows_lines: bool = True
) -> Measure:
    """Check a measure section by itself.

    Args:
        section: The section, in plain values.
        overrides: ``measure.path=value`` each, in place of what the section says.
        name: What messages call it.
        shows_lines: Whether messages quote lines of the section as YAML, which not everybody has written.

    Returns:
        The section, with all defaults.

    Raises:
        SpecError: Something is wrong with it; all problems at once.
    """
    problems: list[Diagnostic] = []
    top = read(Source(name=name, text=yaml.safe_dump({"measure": dict(section)}), shows_lines=shows_lines))
    assert top is not None
    top = apply_overrides(top, overrides, ("measure",), problems)
    measure = _optional(Measure, top.child("measure"), problems)
    raise_if_any(problems)
    assert measure is not None
    return measure


def _load(text: str, name: str, folder: Path, path: Path | None, overrides: Sequence[str]) -> Sweep:
    source = Source(name=name, text=text)
    problems: list[Diagnostic] = []
    top = read(source)
    # What is missing from the top level has no place in the text.
    start = Mark(source=Source(name=name, text="", shows_lines=False), line=0, column=0)
    if top is None or top.value is None:
        raise SpecError(f"{name}: is empty; `clipsweep init` writes a spec to start from")
    if not isinstance(top.value, dict):
        raise_if_any([at(top, f"must be sections, found {shown(plain(top))}", f"keys: {', '.join(SECTIONS)}")])
    top = laid_over(top, folder, problems)
    top = apply_overrides(top, overrides, SECTIONS, problems, paths=_all_paths)
    for key, node in top.children():
        if key not in SECTIONS:
            known = (*SECTIONS, "overlay")
            problems.append(at(node, "unknown key", key=True, found=key, known=known, elsewhere=_all_paths()))

    run_name = _name(top, path, problems)
    measure = _optional(Measure, top.child("measure"), problems)
    metrics = _metrics(top.child("metrics"), problems)
    resources = _optional(Resources, top.child("resources"), problems) or Resources()
    cluster = _optional(Cluster, top.child("cluster"), problems) or Cluster()
    hooks = _optional(Hooks, top.child("on"), problems)
    sweep_node = top.child("sweep")
    if sweep_node is None or sweep_node.value is None:
        sweep_node = Node(value={}, mark=start, path=("sweep",))
    block = validated(SweepBlock, sweep_node, problems)
    unsound: list[Diagnostic] = []
    base = _with_loss_above(_base(top, start, sweep_node, unsound), block, sweep_node, unsound)
    cells: tuple[Cell, ...] = ()
    if block is not None:
        unsound += check_paths(block, sweep_node, base) + check_size(base, block, sweep_node)
        problems += _without_effect(top, block)
    problems += unsound
    if block is None or unsound:
        # There are no cells to check, but the values in the spec can be checked one by one.
        searched = {path: [node] for path, node in searched_paths(sweep_node).items()}
        problems += check_alone(base, {**searched, **written_paths(sweep_node)})
    else:
        cells, found = build_cells(base, block, sweep_node, tried=ends_of(block))
        problems += found
        if measure is not None and any(cell.problem["use"] == "analytic" for cell in cells):
            message = "has no meaning for analytic functions, whose L0 and L1 are known exactly"
            problems.append(at(top.child("measure") or top, message, "leave it out", key=True))
        problems += _measures_nothing(measure, top, cells)
        problems += _compares_nothing(block, sweep_node, cells)
    raise_if_any(problems)
    assert block is not None
    first = cells[0]
    return Sweep(
        name=run_name,
        problem=PROBLEM_OPTIONS.get(first.problem["use"], OwnProblem).model_validate(first.problem),
        update_rule=UpdateRule.model_validate(first.update_rule),
        train=Train.model_validate(first.train),
        measure=measure,
        metrics=metrics,
        sweep=block,
        resources=resources,
        cluster=cluster,
        hooks=hooks,
        cells=cells,
        template=Template(base=base, block=block, node=sweep_node),
        source_path=path,
        folder=folder,
        text=text,
        overrides=tuple(overrides),
        written={key: plain(node) for key, node in base.items()},
    )


def _all_paths() -> list[str]:
    """Every dotted path of a spec, those that people mean most often first."""
    sections: dict[str, list[type[Section]]] = {
        "update_rule": [UpdateRule],
        "train": [Train],
        "problem": list(PROBLEM_OPTIONS.values()),
        "measure": [Measure],
        "sweep": [SweepBlock],
        "on": [Hooks],
    }
    paths = (path for name, models in sections.items() for model in models for path in known_paths(model, name))
    return list(dict.fromkeys(paths))


def _name(top: Node, path: Path | None, problems: list[Diagnostic]) -> str:
    node = top.child("name")
    if node is None:
        return name_of(path) if path is not None else "sweep"
    value = plain(node)
    if not isinstance(value, str) or not re.fullmatch(NAME_PATTERN, value):
        hint = "letters, digits, dots, dashes and underscores, at most 64; quotes make text of a number"
        problems.append(at(node, f"cannot be the name of a run directory, found {shown(value)}", hint))
        return "sweep"
    return value


def _metrics(node: Node | None, problems: list[Diagnostic]) -> dict[str, str]:
    """The directions of metrics that the spec declares."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        problems.append(at(node, f"must be a section, found {shown(plain(node))}", "as in {f1: max}"))
        return {}
    found = {str(name): plain(child) for name, child in node.children()}
    for name, child in node.children():
        if found[str(name)] not in ("min", "max"):
            problems.append(at(child, f"must be min or max, found {shown(plain(child))}", "which value is the best"))
    return found


def _optional(model: type[_S], node: Node | None, problems: list[Diagnostic]) -> _S | None:
    return None if node is None or node.value is None else validated(model, node, problems)


def _base(top: Node, start: Mark, sweep: Node, problems: list[Diagnostic]) -> dict[str, Node]:
    """The sections that are trained with; one that is left out is empty if the sweep fills it, else an error."""
    base = {}
    for name in TRAINED:
        node = top.child(name)
        if node is None or node.value is None:
            mark = start if node is None else node.mark
            node = Node(value={}, mark=mark, path=(name,))
            if not any(path.startswith(f"{name}.") for path in written_paths(sweep)):
                hint = {
                    "problem": "what is minimised, as in {use: language_modeling}",
                    "update_rule": "how a step is taken, as in {optimizer: sgd, learning_rate: 1.0}",
                    "train": "how long, as in {steps: 400}",
                }[name]
                problems.append(at(node, "is required", hint))
        base[name] = node
    return base


def _with_loss_above(
    base: dict[str, Node], block: SweepBlock | None, sweep: Node, problems: list[Diagnostic]
) -> dict[str, Node]:
    """The sections with the limit on the loss that a search sets, so that a trial above it stops at once."""
    search = sweep.child("search")
    limit = search.child("loss_above") if search is not None else None
    if block is None or limit is None or getattr(block.search, "loss_above", None) is None:
        return base
    written = base["train"].child("max_loss")
    if (written is not None and written.value is not None) or "train.max_loss" in swept_paths(block):
        problems.append(at(limit, "train.max_loss is given, too, and both say where a trial stops", "give one of them"))
        return base
    if not isinstance(base["train"].value, dict):
        return base
    return {**base, "train": substitute(base["train"], ("max_loss",), limit)}


def _measures_nothing(measure: Measure | None, top: Node, cells: Sequence[Cell]) -> list[Diagnostic]:
    """Steps at which snapshots are to be taken, and that no trial reaches."""
    section = top.child("measure")
    if measure is None or section is None or not cells:
        return []
    steps = max(cell.train["steps"] for cell in cells)
    reach = f"the longest trial has steps 0 to {steps - 1}"
    found = []
    for key, numbers in (("steps", measure.steps), ("from_step", (measure.from_step,))):
        node = section.child(key)
        beyond = [number for number in numbers if number >= steps]
        if node is not None and beyond:
            found.append(at(node, f"no trial has a step {beyond[0]}, so that nothing is measured there", reach))
    return found


def _compares_nothing(block: SweepBlock, sweep: Node, cells: Sequence[Cell]) -> list[Diagnostic]:
    """A race by a metric that no trial has where it is decided who goes on, or of functions that are never held."""
    search, node = block.search, sweep.child("search")
    if not isinstance(search, Halving) or node is None:
        return []
    if any(cell.problem["use"] == "analytic" for cell in cells):
        message = "halving holds trials on their way, which analytic functions, trained thousands at a time, are not"
        return [at(node.child("use") or node, message, "leave the search out: they take microseconds a step")]
    if search.metric == "train_loss":
        return []
    for cell in cells:
        every = cell.train["evaluate_every"]
        if every is None or every >= search.first:
            found = "is never evaluated" if every is None else f"is evaluated every {every} steps only"
            message = f"{search.metric} is compared after {search.first} steps, but {found}"
            hint = f"train.evaluate_every below {search.first}, or metric: train_loss"
            return [at(node.child("metric") or node, message, hint, key=True)]
    return []


def _without_effect(top: Node, block: SweepBlock) -> list[Diagnostic]:
    """Overrides of a value that the grid or ``zip`` replaces in every cell."""
    problems = []
    for part, axes in (("grid", block.grid), ("zip", block.zip)):
        for path in axes:
            node: Node | None = top
            for step in path.split("."):
                node = node.child(step) if node is not None else None
            if node is not None and not node.mark.source.shows_lines:
                message = f"has no effect, since sweep.{part} sets {path} in every cell"
                problems.append(at(node, message, f"write --set 'sweep.{part}.{path}=[...]'"))
    return problems
