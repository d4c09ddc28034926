"""What a sweep trains: its trials, each with an id that depends only on what is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from sweeper.cell_labels import CellLabels
from sweeper.errors import SpecError
from sweeper.spec.cells import Cell
from sweeper.spec.sections.measure import Measure
from sweeper.spec.sections.problems import ADDED_OPTIONS as ADDED_PROBLEM_OPTIONS
from sweeper.spec.sections.problems import EMBEDDED_DATA
from sweeper.spec.sections.update_rule import ADDED_OPTIONS, ADDED_SCHEDULE_OPTIONS, TRANSFORMS
from sweeper.spec.sweep import Sweep
from sweeper.spec.syntax.diagnostics import Diagnostic, at, raise_if_any
from sweeper.spec.user_code import UserCode, require_allowed, user_code
from sweeper.spec.variants import canonical
from trainers.data.sources import SOURCES, is_present, lacking, where_it_goes

__all__ = [
    "Plan",
    "Trial",
    "UserCode",
    "arm_of",
    "expand",
    "measurement_id",
    "remeasurement_id",
    "require_allowed",
    "training_key",
    "user_code",
]

_SCHEMA = 2
"""Incremented when the meaning of a resolved section changes; a new value retrains everything."""

_MEASURED_SCHEMA = 3
"""Incremented when f or a measurement changes under the same section. 3: the probe's batches have one size."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One cell with one seed: the unit that is trained.

    Attributes:
        trial_id: 16 hex digits, a hash of everything that affects training.
        cell_id: The same without the seed.
        arm: The update rule in words, without numbers.
        seed: Seed of the initial weights, the batch order and the dropout.
        index: Position in the plan.
        case: The name that the spec gives the cell's case; None for none. Not in its id.
        swept: Swept paths with this cell's values, all scalars.
        problem: The resolved section, folders of data absolute.
        update_rule: The resolved section.
        train: The resolved section.
    """

    trial_id: str
    cell_id: str
    arm: str
    seed: int
    index: int
    swept: Mapping[str, Any]
    problem: Mapping[str, Any]
    update_rule: Mapping[str, Any]
    train: Mapping[str, Any]
    case: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every trial of a sweep.

    Attributes:
        trials: Cell by cell, each with the seeds in the spec's order.
        num_cells: How many cells there are.
        num_seeds: How many seeds each has.
        arms: The arms, in the order of their first cells.
        code: The user's own code that the trials need.
    """

    trials: tuple[Trial, ...] = field(repr=False)
    num_cells: int
    num_seeds: int
    arms: tuple[str, ...]
    code: tuple[UserCode, ...]

    @property
    def trained_problems(self) -> tuple[Mapping[str, Any], ...]:
        """Every problem that has a model and data, each once: all except analytic functions."""
        problems = {canonical(dict(t.problem)): t.problem for t in self.trials if t.problem["use"] != "analytic"}
        return tuple(problems.values())

    @property
    def cases(self) -> dict[str, str]:
        """Cell id to the name of its case, of the cells whose case has one."""
        return {trial.cell_id: trial.case for trial in self.trials if trial.case is not None}

    @property
    def labels(self) -> CellLabels:
        """What its cells are called."""
        return CellLabels({trial.cell_id: trial.swept for trial in self.trials}, self.cases)

    @property
    def num_steps(self) -> int:
        """Training steps of all trials together."""
        return sum(trial.train["steps"] for trial in self.trials)


def expand(sweep: Sweep) -> Plan:
    """The trials of a sweep.

    Args:
        sweep: A checked spec.

    Returns:
        The plan; the same for the same spec, wherever and whenever it is made.

    Raises:
        SpecError: The user's own code, a folder of data or data of a known name is missing; all of them at once.
    """
    problems: list[Diagnostic] = []
    code: dict[str, UserCode | None] = {}
    located: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
    for cell in sweep.cells:
        use = cell.problem["use"]
        if use not in code:
            code[use] = _find_code(cell, sweep.folder, problems)
        # Most cells share their problem with others.
        if id(cell.problem) not in located:
            located[id(cell.problem)] = _locate(cell, sweep.folder, problems)
    raise_if_any(problems)
    trials: list[Trial] = []
    for cell in sweep.cells:
        hashed, problem = located[id(cell.problem)]
        own = code[cell.problem["use"]]
        key = partial(
            training_key,
            hashed,
            update_rule=cell.update_rule,
            train=cell.train,
            code=own.sha256 if own is not None else None,
        )
        cell_id = key(seed=None)
        arm = arm_of(cell.update_rule)
        for seed in sweep.sweep.seeds:
            trials.append(
                Trial(
                    trial_id=key(seed=seed),
                    cell_id=cell_id,
                    arm=arm,
                    seed=seed,
                    index=len(trials),
                    swept=cell.swept,
                    problem=problem,
                    update_rule=cell.update_rule,
                    train=cell.train,
                    case=cell.case,
                )
            )
    return Plan(
        trials=tuple(trials),
        num_cells=len(sweep.cells),
        num_seeds=len(sweep.sweep.seeds),
        arms=tuple(dict.fromkeys(trial.arm for trial in trials)),
        code=tuple(found for _, found in sorted(code.items()) if found is not None),
    )


def training_key(
    problem: Mapping[str, Any],
    *,
    update_rule: Mapping[str, Any],
    train: Mapping[str, Any],
    seed: int | None,
    code: str | None,
) -> str:
    """The id of what is trained.

    Args:
        problem: The resolved section, folders of data as the spec names them, so that a moved project keeps its ids.
        update_rule: The resolved section.
        train: The resolved section; ``checkpoint_every`` is left out, since results do not depend on it.
        seed: The seed; None for the id of a cell.
        code: Hash of the user's own code, if the problem is the user's own.

    Returns:
        The first 16 hex digits of the SHA-256 of the canonical JSON of all of it.
    """
    trained = {key: value for key, value in train.items() if key != "checkpoint_every"}
    rule = _without(update_rule, ADDED_OPTIONS)
    rule["schedule"] = _without(rule["schedule"], ADDED_SCHEDULE_OPTIONS)
    content = {
        "schema": _SCHEMA,
        "problem": _without(problem, ADDED_PROBLEM_OPTIONS.get(problem["use"], {})),
        "update_rule": rule,
        "train": trained,
        "code": code,
    }
    if seed is not None:
        content["seed"] = seed
    return _digest(content)


def measurement_id(measure: Measure | None) -> str:
    """The id of what is measured and when.

    Args:
        measure: The resolved section; None for nothing. Whether snapshots are kept, and the order of the estimators,
            do not count. What a release of clipsweep makes of a section does.

    Returns:
        16 hex digits.
    """
    if measure is None:
        return _digest({"schema": _SCHEMA, "measure": None})
    section = measure.model_dump(mode="json", exclude={"keep"})
    section["estimators"] = sorted(section["estimators"], key=canonical)
    section["steps"] = sorted(set(section["steps"]))
    return _digest({"schema": _MEASURED_SCHEMA, "measure": section})


def remeasurement_id(section: Mapping[str, Any]) -> str:
    """The id of settings with which kept snapshots are measured again.

    Args:
        section: ``data_fraction``, ``probe``, ``audit`` and ``estimators`` of a resolved measure section.

    Returns:
        16 hex digits, never those of a :func:`measurement_id`.
    """
    return _digest({"schema": _MEASURED_SCHEMA, "remeasure": section})


def arm_of(update_rule: Mapping[str, Any]) -> str:
    """The update rule without its numbers.

    Args:
        update_rule: The resolved section.

    Returns:
        The optimiser with the options that are in use, the transform, the average, and the schedule if not constant,
        with its warm-up.

    Example:
        >>> rule = {"optimizer": "sgd", "momentum": 0.9, "clip_norm": 0.25, "schedule": {"use": "cosine"}}
        >>> arm_of(rule)
        'sgd(momentum) + clip_norm + cosine'
        >>> arm_of({"optimizer": "sgd", "clip_threshold": {"use": "percentile"}, "when_exceeded": "skip"})
        'sgd + clip_threshold(percentile, skip)'
    """
    if (theory := update_rule.get("from_theory")) is not None:
        return str(theory)
    options = [name for name in ("momentum", "dampening", "nesterov", "weight_decay") if update_rule.get(name)]
    direction = update_rule["optimizer"] + (f"({', '.join(options)})" if options else "")
    transforms = [
        _transform_of(name, update_rule[name], update_rule) for name in TRANSFORMS if update_rule.get(name) is not None
    ]
    average = update_rule.get("average")
    section = update_rule.get("schedule", {})
    schedule = section.get("use", "constant")
    if section.get("warmup"):
        schedule = "warmup" if schedule == "constant" else f"{schedule}(warmup)"
    return " + ".join([
        direction,
        *transforms,
        *([f"average({average['use']})"] if average else []),
        *([] if schedule == "constant" else [schedule]),
    ])


def _transform_of(name: str, value: Any, update_rule: Mapping[str, Any]) -> str:
    """A transform without its numbers: ``clip_norm(momentum)``, ``clip_threshold(percentile, skip)``."""
    details = [
        *([value["use"]] if name == "clip_threshold" else []),
        *(["skip"] if update_rule.get("when_exceeded") == "skip" else []),
        *(["momentum"] if update_rule.get("transform_of") == "momentum" else []),
    ]
    return f"{name}({', '.join(details)})" if details else name


def _without(section: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """A section without options added later, where those have their defaults: as it was hashed before they existed."""
    return {key: value for key, value in section.items() if key not in added or value != added[key]}


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def _find_code(cell: Cell, folder: Path, problems: list[Diagnostic]) -> UserCode | None:
    try:
        return user_code(cell.problem["use"], folder)
    except SpecError as error:
        problems.append(at(cell.use, str(error), "package.module:factory"))
        return None


def _locate(cell: Cell, folder: Path, problems: list[Diagnostic]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The problem as it is hashed, with folders as named, and as it is trained, with absolute folders."""
    hashed, trained = dict(cell.problem), dict(cell.problem)
    for key, embedded in EMBEDDED_DATA.get(cell.problem["use"], {}).items():
        value = cell.problem[key]
        if value in embedded:
            continue
        node = next(node for node in cell.data if node.value == value)
        named = tuple(source.name for source in SOURCES.values() if source.kind == key)
        if value in named:
            if not is_present(SOURCES[value]):
                problems.append(at(node, f"{value!r} is not on this machine", where_it_goes(SOURCES[value])))
            continue
        place = folder / Path(value).expanduser()
        hashed[key], trained[key] = str(PurePosixPath(value)), str(place)
        if hashed[key] in {*embedded, *named}:
            # A folder of that name is other data, so its trials are different.
            hashed[key] = f"./{hashed[key]}"
        if not place.is_dir():
            known = (*embedded, *named, "a folder")
            problems.append(at(node, f"there is no folder {place}", found=value, known=known))
        elif (missing := lacking(place, key)) is not None:
            what, _, looked = missing.partition("; ")
            problems.append(at(node, what, looked))
    return hashed, trained
