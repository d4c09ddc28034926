"""Which dotted paths may be swept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

from sweeper.labels import appearance
from sweeper.spec.entry_points import is_own
from sweeper.spec.sections.axes import CASE_NAME, MAX_CASE_NAME, SweepBlock
from sweeper.spec.sections.problems import PROBLEM_OPTIONS
from sweeper.spec.sections.settings import Train
from sweeper.spec.sections.update_rule import OWN_PARTS, UpdateRule
from sweeper.spec.syntax.diagnostics import Diagnostic, at, shown
from sweeper.spec.syntax.reader import MAX_DEPTH
from sweeper.spec.syntax.tree import Node, format_path, plain
from sweeper.spec.validation import known_paths

__all__ = ["TRAINED", "check_paths", "searched_paths", "swept_paths", "written_paths"]

TRAINED = ("problem", "update_rule", "train")
"""The sections that decide what is trained, and so those in which cells differ."""

_PARTS = ("grid", "zip", "cases")
_NO_NAMES = {"none", "null"}
_MAX_PATHS = 100
_MAX_PROBLEMS = 200
_WHY_NOT = {
    "measure": "all trials of a run are measured in the same way; another measure section is another run of estimators",
    "metrics": "which value of a metric is the best does not change what is trained",
    "resources": "resources do not change what is trained",
    "cluster": "the cluster does not change what is trained",
    "on": "who is called does not change what is trained",
    "name": "a spec describes one sweep",
    "sweep": "write sweep.seeds itself to sweep over seeds",
    "seed": "seeds have their own key, sweep.seeds",
}


def swept_paths(block: SweepBlock) -> tuple[str, ...]:
    """Every path in which cells differ, each once.

    Args:
        block: The sweep section.

    Returns:
        Paths of the grid, of ``zip`` and of the cases, in that order, and those that are searched over.
    """
    in_cases = [path for case in block.cases or () for path in case if path != CASE_NAME]
    searched = block.search.space if block.search is not None else ()
    return tuple(dict.fromkeys([*block.grid, *block.zip, *in_cases, *searched]))


def written_paths(node: Node) -> dict[str, list[Node]]:
    """What a sweep section sets, valid or not.

    Args:
        node: The section as it was read.

    Returns:
        Every path of the grid, of ``zip`` and of the cases, with the values that are written for it.
    """
    found: dict[str, list[Node]] = {}
    for part in _PARTS:
        for path, value in _keys(node, part):
            values = found.setdefault(path, [])
            if part == "cases":
                values.append(value)
            elif isinstance(value.value, tuple):
                values.extend(value.value)
    return found


def check_paths(block: SweepBlock, node: Node, base: Mapping[str, Node]) -> list[Diagnostic]:
    """Problems with what the sweep section names.

    Args:
        block: The sweep section.
        node: Where it was read.
        base: The sections ``problem``, ``update_rule`` and ``train``, as written.

    Returns:
        Unknown paths, paths that cannot be swept, paths that conflict with one another, entries of ``exclude``
        about something that is not swept, and names of cases that are no names, or that two cases have.
    """
    swept = swept_paths(block)
    if len(swept) > _MAX_PATHS:
        return [at(node, f"{len(swept):,} swept paths, at most {_MAX_PATHS}", key=True)]
    known, free = _known(block, base), _free(block, base)
    found = (problem for part in _PARTS for _, key in _keys(node, part) for problem in _check(key, known, free))
    searched = searched_paths(node)
    problems = [*islice(found, _MAX_PROBLEMS), *islice(_clashes(node), _MAX_PROBLEMS)]
    problems += [problem for key in searched.values() for problem in _check(key, known, free)]
    problems += islice(_bad_names(node), _MAX_PROBLEMS)
    for path, key in _keys(node, "exclude"):
        if not any(path == other or path.startswith(f"{other}.") for other in swept):
            problems.append(at(key, f"{path} is not swept, so nothing can be excluded by it", _listed(swept), key=True))
        elif path in searched:
            message = f"{path} is searched over, so that its values are not known"
            problems.append(at(key, message, "exclude by what is swept, or narrow the range of the search", key=True))
    return problems


def searched_paths(node: Node) -> dict[str, Node]:
    """The paths that a sweep section's search is over, valid or not.

    Args:
        node: The section as it was read.

    Returns:
        Path to where it is written, with the path as the last step of its own.
    """
    search = node.child("search")
    over = search.child("over") if search is not None else None
    if over is None:
        return {}
    if isinstance(over.value, str):
        return {over.value: replace(over, key_mark=over.mark, path=(*over.path, over.value))}
    return {str(path): key for path, key in over.children()}


def _check(key: Node, known: Mapping[str, list[str] | None], free: tuple[str, ...]) -> Iterator[Diagnostic]:
    path = str(key.path[-1])
    section, _, rest = path.partition(".")
    if path == "train.checkpoint_every":
        yield at(key, "cannot be swept", "checkpoints do not change what is trained", key=True)
    elif section in TRAINED and not rest:
        yield at(key, "cannot be swept as a whole", f"sweep its parts, as in {section}.{_example(section)}", key=True)
    elif section in _WHY_NOT:
        yield at(key, "cannot be swept", _WHY_NOT[section], key=True)
    elif section not in TRAINED:
        everything = [name for names in known.values() for name in names or ()]
        yield at(key, "unknown path", key=True, found=path, known=everything)
    elif (names := known[section]) is not None and not path.startswith(free):
        if path not in names:
            yield at(key, "unknown path", key=True, found=path, known=names)
    elif not all(steps := rest.split(".")) or len(steps) > MAX_DEPTH:
        yield at(key, "is not a path", "names with single dots between them", key=True)


def _known(block: SweepBlock, base: Mapping[str, Node]) -> dict[str, list[str] | None]:
    """Known paths of each section; None where any is allowed: a user's own problem, or an unknown one."""
    uses: list[object] = [plain(use)] if (use := base["problem"].child("use")) is not None else []
    for axis in (block.grid.get("problem.use"), block.zip.get("problem.use")):
        uses += axis if isinstance(axis, tuple) else ()
    uses += [case["problem.use"] for case in block.cases or () if "problem.use" in case]
    models = [PROBLEM_OPTIONS.get(name) if isinstance(name, str) else None for name in uses]
    in_problem: list[str] | None = []
    for model in models:
        in_problem = None if model is None or in_problem is None else in_problem + known_paths(model, "problem")
    return {
        "problem": in_problem if models else None,
        "update_rule": known_paths(UpdateRule, "update_rule"),
        "train": known_paths(Train, "train"),
    }


def _free(block: SweepBlock, base: Mapping[str, Node]) -> tuple[str, ...]:
    """Sections of the update rule that are, in some cell, something of the user's own, of any options."""
    found = []
    for name in OWN_PARTS:
        section, path = base["update_rule"].child(name), f"update_rule.{name}"
        uses: list[object] = [] if section is None or (use := section.child("use")) is None else [plain(use)]
        for key in (path, f"{path}.use"):
            for axis in (block.grid.get(key), block.zip.get(key)):
                uses += axis if isinstance(axis, tuple) else ()
            uses += [case[key] for case in block.cases or () if key in case]
        named = (use.get("use") if isinstance(use, dict) else use for use in uses)
        if any(is_own(f"{name}s", use) for use in named):
            found.append(f"{path}.")
    return tuple(found)


def _keys(node: Node, part: str) -> Iterator[tuple[str, Node]]:
    """The dotted paths in one part of the sweep section, each with the node it is the key of."""
    for mapping in _mappings(node, part):
        for key, child in mapping.children():
            if part != "cases" or key != CASE_NAME:
                yield str(key), child


def _mappings(node: Node, part: str) -> tuple[Node, ...]:
    section = node.child(part)
    if section is None:
        return ()
    return section.value if isinstance(section.value, tuple) else (section,)


def _bad_names(node: Node) -> Iterator[Diagnostic]:
    """Names of cases that are no names, or that an earlier case has."""
    seen: dict[str, Node] = {}
    hint = (
        f"a text of at most {MAX_CASE_NAME} characters on one line, visible and without spaces around; quotes make "
        "text of a number"
    )
    for case in _mappings(node, "cases"):
        named = case.child(CASE_NAME)
        if named is None:
            continue
        name = plain(named)
        if not isinstance(name, str):
            yield at(named, f"must be text, found {shown(name)}", hint)
        elif not _is_visible(name) or not 0 < len(name.strip()) == len(name) <= MAX_CASE_NAME:
            yield at(named, f"cannot be the name of a case, found {shown(name)}", hint)
        elif name.lower() in _NO_NAMES:
            yield at(named, f"cannot be the name of a case, found {shown(name)}", "--where takes it for no name at all")
        elif (before := seen.setdefault(appearance(name).casefold(), named)) is not named:
            where = format_path(before.path[:-1])
            if name == plain(before):
                yield at(named, f"{shown(name)} is already the name of {where}", "each case has a name of its own")
            else:
                message = f"{name!a} is too much like {plain(before)!a}, the name of {where}"
                yield at(named, message, "names differ in more than case, accents' encoding and invisible characters")


def _is_visible(name: str) -> bool:
    return name.isprintable() and appearance(name).strip() != ""


def _clashes(node: Node) -> Iterator[Diagnostic]:
    """A path that is swept twice, or together with a part of itself, where it is unclear which value counts."""
    seen: dict[str, Node] = {}
    # A path's parents and children are looked up; comparing all pairs would take forever.
    above: dict[str, Node] = {}
    written = [(part, path, key) for part in _PARTS for path, key in _keys(node, part)]
    # The search first, so that what sweeps a path beside it is named.
    for part, path, key in [*(("search", *found) for found in searched_paths(node).items()), *written]:
        steps = path.split(".")[:MAX_DEPTH]
        prefixes = [".".join(steps[:length]) for length in range(1, len(steps) + 1)]
        rival = next((seen[prefix] for prefix in prefixes if prefix in seen), None) or above.get(path)
        if rival is not None:
            where = ".".join(str(step) for step in rival.path[:2])
            yield at(key, f"{path} is already set by {where}", "sweep a path in one place", key=True)
        elif part != "cases":
            # Only one case applies at a time, so cases cannot conflict with one another.
            seen[path] = key
            above.update(dict.fromkeys(prefixes[:-1], key))


def _example(section: str) -> str:
    return {"problem": "model.hidden", "update_rule": "learning_rate", "train": "steps"}[section]


def _listed(paths: tuple[str, ...]) -> str:
    return f"swept: {', '.join(paths)}" if paths else "nothing is swept"
