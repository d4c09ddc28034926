"""What a sweep trains: its trials, each with an id that depends only on what is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from sweeper.cell_labels import CellLabels
from sweeper.errors import SpecError
from sweeper.spec.cells import Cell
from sweeper.spec.sections.measure import Measure
from sweeper.spec.sections.problems import ADDED_OPTIONS as ADDED_PROBLEM_OPTIONS
from sweeper.spec.sections.problems import EMBEDDED_DATA
from sweeper.spec.sections.settings import ADDED_TRAIN_OPTIONS
from sweeper.spec.sections.update_rule import ADDED_OPTIONS, ADDED_SCHEDULE_OPTIONS, OWN_PARTS, TRANSFORMS
from sweeper.spec.sweep import Sweep
from sweeper.spec.syntax.diagnostics import Diagnostic, at, raise_if_any
from sweeper.spec.syntax.tree import Node
from sweeper.spec.user_code import UserCode, require_allowed, user_code
from sweeper.spec.variants import canonical
from sweeper.store.planned_trials import CodeRecord, TrialRecord
from trainers.data.sources import SOURCES, is_present, lacking, where_it_goes

__all__ = [
    "Making",
    "Plan",
    "Trial",
    "UserCode",
    "arm_of",
    "estimator_code",
    "expand",
    "measurement_id",
    "own_uses",
    "record_of",
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
    making = Making(sweep)
    trials = [trial for cell in sweep.cells for trial in making.trials(cell, sweep.sweep.seeds)]
    return making.plan([replace(trial, index=index) for index, trial in enumerate(trials)])


_Located: TypeAlias = tuple[dict[str, Any], dict[str, Any]]
"""A problem as it is hashed, with folders as named, and as it is trained, with absolute ones."""


class Making:
    """Makes the trials of a sweep's cells.

    Args:
        sweep: The spec.

    Raises:
        SpecError: The user's own code, a folder of data or data of a known name is missing; all of them at once.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._code: dict[str, UserCode | None] = {}
        self._located: dict[str, _Located] = {}
        self._shared: dict[int, _Located] = {}
        problems: list[Diagnostic] = []
        for found in estimator_code(sweep):
            self._code[found.use] = found
        for cell in sweep.cells:
            self._shared[id(cell.problem)] = self._look(cell, problems)
        raise_if_any(problems)

    def trials(self, cell: Cell, seeds: Sequence[int]) -> list[Trial]:
        """The trials of a cell.

        Args:
            cell: One of the sweep's, or one that a search has asked for.
            seeds: Their seeds.

        Returns:
            One trial for each seed, without a position in a plan.

        Raises:
            SpecError: Its data is missing.
        """
        problems: list[Diagnostic] = []
        hashed, problem = self._look(cell, problems)
        raise_if_any(problems)
        own = self._code[cell.problem["use"]]
        key = partial(
            training_key,
            hashed,
            update_rule=cell.update_rule,
            train=cell.train,
            code=own.sha256 if own is not None else None,
            rule_code={use: found.sha256 for use in own_uses(cell.update_rule) if (found := self._code[use])},
        )
        cell_id, arm = key(seed=None), arm_of(cell.update_rule)
        return [
            Trial(
                trial_id=key(seed=seed),
                cell_id=cell_id,
                arm=arm,
                seed=seed,
                index=0,
                swept=cell.swept,
                problem=problem,
                update_rule=cell.update_rule,
                train=cell.train,
                case=cell.case,
            )
            for seed in seeds
        ]

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """The plan of some trials.

        Args:
            trials: As :meth:`trials` makes them.

        Returns:
            The plan.
        """
        return Plan(
            trials=tuple(trials),
            num_cells=len({trial.cell_id for trial in trials}),
            num_seeds=len(self._sweep.sweep.seeds),
            arms=tuple(dict.fromkeys(trial.arm for trial in trials)),
            code=self.code,
        )

    @property
    def code(self) -> tuple[UserCode, ...]:
        """The user's own code that trials and estimators need, by the import paths that name it."""
        return tuple(found for _, found in sorted(self._code.items()) if found is not None)

    def _look(self, cell: Cell, problems: list[Diagnostic]) -> _Located:
        """The problem of a cell as it is hashed and as it is trained; its code and its data are looked for once."""
        for node, use in [(cell.use, cell.problem["use"]), *zip(cell.own, own_uses(cell.update_rule), strict=True)]:
            if use not in self._code:
                self._code[use] = _find_code(node, use, self._sweep.folder, problems)
        # Most cells share their problem with others: the very same one, of the sweep's own cells, which all stay alive.
        if (known := self._shared.get(id(cell.problem))) is not None:
            return known
        key = canonical(cell.problem)
        if key not in self._located:
            self._located[key] = _locate(cell, self._sweep.folder, problems)
        return self._located[key]


def training_key(
    problem: Mapping[str, Any],
    *,
    update_rule: Mapping[str, Any],
    train: Mapping[str, Any],
    seed: int | None,
    code: str | None,
    rule_code: Mapping[str, str] | None = None,
) -> str:
    """The id of what is trained.

    Args:
        problem: The resolved section, folders of data as the spec names them, so that a moved project keeps its ids.
        update_rule: The resolved section.
        train: The resolved section; ``checkpoint_every`` is left out, since results do not depend on it.
        seed: The seed; None for the id of a cell.
        code: Hash of the user's own code, if the problem is the user's own.
        rule_code: Import path to hash of the user's own code that the update rule names.

    Returns:
        The first 16 hex digits of the SHA-256 of the canonical JSON of all of it.
    """
    trained = _without(train, ADDED_TRAIN_OPTIONS)
    trained.pop("checkpoint_every", None)
    rule = _without(update_rule, ADDED_OPTIONS)
    if ":" not in rule["schedule"]["use"]:
        rule["schedule"] = _without(rule["schedule"], ADDED_SCHEDULE_OPTIONS)
    content = {
        "schema": _SCHEMA,
        "problem": _without(problem, ADDED_PROBLEM_OPTIONS.get(problem["use"], {})),
        "update_rule": rule,
        "train": trained,
        "code": code,
    }
    if rule_code:
        content["rule_code"] = dict(rule_code)
    if seed is not None:
        content["seed"] = seed
    return _digest(content)


def estimator_code(sweep: Sweep) -> tuple[UserCode, ...]:
    """The source of the user's own estimators.

    Args:
        sweep: A checked spec.

    Returns:
        Each once, in the order of the spec.

    Raises:
        SpecError: There is no such module or factory.
    """
    found = []
    for entry in sweep.measure.estimators if sweep.measure is not None else ():
        try:
            code = user_code(entry.use, sweep.folder)
        except SpecError as error:
            raise SpecError(f"{sweep.source_path or sweep.name}: measure.estimators: {entry.use}: {error}") from None
        if code is not None:
            found.append(code)
    return tuple(found)


def measurement_id(measure: Measure | None, code: Sequence[UserCode] = ()) -> str:
    """The id of what is measured and when.

    Args:
        measure: The resolved section; None for nothing. Whether snapshots are kept, and the order of the estimators,
            do not count. What a release of clipsweep makes of a section does.
        code: The user's own code; that of estimators counts.

    Returns:
        16 hex digits.
    """
    if measure is None:
        return _digest({"schema": _SCHEMA, "measure": None})
    section = measure.model_dump(mode="json", exclude={"keep"})
    section["estimators"] = sorted(section["estimators"], key=canonical)
    section["steps"] = sorted(set(section["steps"]))
    content = {"schema": _MEASURED_SCHEMA, "measure": section}
    uses = {estimator.use for estimator in measure.estimators}
    if own := {found.use: found.sha256 for found in code if found.use in uses}:
        content["code"] = own
    return _digest(content)


def remeasurement_id(section: Mapping[str, Any]) -> str:
    """The id of settings with which kept snapshots are measured again.

    Args:
        section: ``data_fraction``, ``probe``, ``audit`` and ``estimators`` of a resolved measure section.

    Returns:
        16 hex digits, never those of a :func:`measurement_id`.
    """
    return _digest({"schema": _MEASURED_SCHEMA, "remeasure": section})


def own_uses(update_rule: Mapping[str, Any]) -> tuple[str, ...]:
    """What an update rule names by import path.

    Args:
        update_rule: The resolved section.

    Returns:
        ``package.module:factory`` of the schedule and of the transform, those that are the user's own.

    Example:
        >>> own_uses({"schedule": {"use": "cosine"}, "transform": {"use": "mine:clip", "threshold": 1}})
        ('mine:clip',)
    """
    sections = (update_rule.get(name) for name in OWN_PARTS)
    return tuple(section["use"] for section in sections if section is not None and ":" in section["use"])


def record_of(trial: Trial, code: Sequence[UserCode]) -> TrialRecord:
    """What the journal keeps of a trial.

    Args:
        trial: The trial.
        code: The user's own code that the trials need.

    Returns:
        Its record.
    """
    records = {found.use: CodeRecord(use=found.use, root=found.root, sha256=found.sha256) for found in code}
    return TrialRecord(
        trial_id=trial.trial_id,
        cell_id=trial.cell_id,
        arm=trial.arm,
        seed=trial.seed,
        swept=trial.swept,
        learning_rate=trial.update_rule["learning_rate"],
        clip_norm=trial.update_rule["clip_norm"],
        steps=trial.train["steps"],
        code=records.get(trial.problem["use"]),
        rule_code=tuple(records[use] for use in own_uses(trial.update_rule)),
    )


def arm_of(update_rule: Mapping[str, Any]) -> str:
    """The update rule without its numbers.

    Args:
        update_rule: The resolved section.

    Returns:
        The optimiser with the options that are in use, the transform, the average, and the schedule if not constant,
        with its warm-up. A transform of the user's own is called what the spec calls it.

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
    if update_rule.get("decay_on") == "matrices":
        options[-1] += " of matrices"
    options += ["no_decay"] if update_rule.get("no_decay") else []
    direction = update_rule["optimizer"] + (f"({', '.join(options)})" if options else "")
    transforms = [
        _transform_of(name, update_rule[name], update_rule) for name in TRANSFORMS if update_rule.get(name) is not None
    ]
    if (own := update_rule.get("transform")) is not None:
        transforms.append(_transform_of(own["use"], own, update_rule))
    average = update_rule.get("average")
    section = update_rule.get("schedule", {})
    schedule = section.get("use", "constant")
    if ":" in schedule:
        schedule = f"schedule({schedule})"
    elif section.get("warmup"):
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
        *(["each micro-batch"] if update_rule.get("clip_each_micro_batch") else []),
    ]
    return f"{name}({', '.join(details)})" if details else name


def _without(section: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """A section without options added later, where those have their defaults: as it was hashed before they existed."""
    return {key: value for key, value in section.items() if key not in added or value != added[key]}


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def _find_code(node: Node, use: str, folder: Path, problems: list[Diagnostic]) -> UserCode | None:
    try:
        return user_code(use, folder)
    except SpecError as error:
        problems.append(at(node, str(error), "package.module:factory"))
        return None


def _locate(cell: Cell, folder: Path, problems: list[Diagnostic]) -> _Located:
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
