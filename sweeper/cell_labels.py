"""What cells are called: by what differs between them, in short, and no two alike.

Tables, messages, plots, plans and the live view all take their labels from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from sweeper.labels import printable, short_names
from sweeper.value_texts import Rule, key_of, shortened, texts_of

__all__ = ["CASE", "RULE", "THE_ONLY_CELL", "TRANSFORMS", "CellLabels", "Labels", "is_transform", "tell_apart"]

CASE, RULE = "case", "rule"
"""Names whose values need no name beside them: that of a case, and what is done to the gradient."""

THE_ONLY_CELL = "the only cell"

TRANSFORMS = (
    "clip_norm",
    "normalize",
    "clip_value",
    "clip_layer_norm",
    "clip_adaptive",
    "clip_threshold",
    "clip_groups",
)
"""Options of ``update_rule`` of which at most one is not null, so that a label has one entry for all of them."""

_OF_A_THEOREM = {"update_rule.from_theory", "update_rule.learning_rate"}
"""Options of which a cell has one, and of the other null, which nobody misses in a label."""

_NAME_WIDTH = 28

_LEAST = {CASE: 64, RULE: 32}
"""Names of cases are chosen to be read, and rules are ours and short: these are shortened only beyond that."""


class Labels:
    """Labels of things that differ in named values: cells, panels, contexts.

    Args:
        things: Name to value, for each thing. Where a thing has a :data:`CASE`, that stands for whatever is the same
            in all things with this case.
    """

    def __init__(self, things: Sequence[Mapping[str, Any]]) -> None:
        names = list(dict.fromkeys(name for thing in things for name in thing))
        if CASE in names:
            names = [CASE, *(name for name in names if name != CASE)]
        self._names = dict(zip(names, shortened(map(printable, names), least=_NAME_WIDTH), strict=True))
        self._texts = {name: self._texts_of(name, (thing[name] for thing in things if name in thing)) for name in names}
        self._differing = [
            name for name in names if len({key_of(thing[name]) if name in thing else _MISSING for thing in things}) > 1
        ]
        self._told = _told_by_the_case(things, self._differing)

    def text(self, name: str, value: Any) -> str:
        """A value as tables show it: in short, and different from those of all other things.

        Args:
            name: Its name.
            value: The value.

        Returns:
            One line; the value alone where no thing has it.
        """
        known = self._texts.get(name, {}).get(key_of(value))
        return next(iter(self._texts_of(name, [value]).values())) if known is None else known

    def label(self, values: Mapping[str, Any], *, every: bool = False) -> str:
        """``name=value`` pairs of what differs between the things.

        Args:
            values: Some or all of the values of a thing.
            every: Also those that are the same in all things.

        Returns:
            The pairs, without line breaks; empty where nothing differs. Names that no thing has are always shown.
        """
        told = self._told if values.get(CASE) is not None else ()
        shown = [
            name
            for name in sorted(values, key=lambda name: name != CASE)
            if (every or name in self._differing or name not in self._names)
            and name not in told
            and not (name == CASE and values[name] is None)
        ]
        return " ".join(self._pair(name, values[name]) for name in shown)

    def _texts_of(self, name: str, values: Iterable[Any]) -> dict[Hashable, str]:
        return texts_of(values, least=_LEAST.get(name, 0))

    def _pair(self, name: str, value: Any) -> str:
        text = self.text(name, value)
        return text if name in (CASE, RULE) else f"{self._names.get(name, printable(name))}={text}"


class CellLabels:
    """Labels of the cells of a run or of a plan.

    Args:
        swept: Cell id to its values by swept path.
        cases: Cell id to the name of its case, where the spec gives one.
    """

    def __init__(self, swept: Mapping[str, Mapping[str, Any]], cases: Mapping[str, str] | None = None) -> None:
        self.names = short_names(list(dict.fromkeys(path for values in swept.values() for path in values)))
        # A path that was not swept when a cell was planned has no value there.
        swept = {cell: {path: values.get(path) for path in self.names} for cell, values in swept.items()}
        cases = cases or {}
        things = {
            cell: {**({CASE: cases.get(cell)} if cases else {}), **self._thing(values)}
            for cell, values in swept.items()
        }
        self._values = Labels([{self.names[path]: value for path, value in cell.items()} for cell in swept.values()])
        self._labels = Labels(list(things.values()))
        every = len(things) == 1
        labels = [self._labels.label(thing, every=every) or THE_ONLY_CELL for thing in things.values()]
        self._of = dict(zip(things, _numbered(labels), strict=True))
        self._is_alone = every and labels == [THE_ONLY_CELL]

    def __getitem__(self, cell: str) -> str:
        """The label of a cell."""
        return self._of[cell]

    def trial(self, cell: str, seed: int) -> str:
        """The label of a trial of a cell."""
        return f"seed={seed}" if self._is_alone else f"{self._of[cell]} seed={seed}"

    def text(self, name: str, value: Any) -> str:
        """A value by its short name, as tables show it."""
        return self._values.text(name, value)

    def texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Values by their short names, as tables show them."""
        return {name: self._values.text(name, value) for name, value in values.items()}

    def part(self, values: Mapping[str, Any]) -> str:
        """What some values, by short name, say of a row or a context; empty where all cells have them alike."""
        paths = {short: path for path, short in self.names.items()}
        return self._labels.label(self._thing({paths.get(name, name): value for name, value in values.items()}))

    def _thing(self, swept: Mapping[str, Any]) -> dict[str, Any]:
        """Values by short name, with one entry for all transforms of the gradient."""
        # A theorem has a rate and a threshold of its own; without one, there is a rate.
        by_theorem = swept.get("update_rule.from_theory") is not None
        thing: dict[str, Any] = {}
        for path, value in swept.items():
            section, _, name = path.rpartition(".")
            if section == "update_rule" and name in TRANSFORMS:
                rule = thing.get(RULE, Rule())
                if not by_theorem:
                    thing[RULE] = rule if value is None else Rule(name, value)
            elif path == "update_rule.when_exceeded" and value in {None, "clip"}:
                # Clipping is what everybody expects of a threshold; a label says what is skipped.
                continue
            elif value is not None or path not in _OF_A_THEOREM:
                thing[self.names.get(path, path)] = value
        return thing


def is_transform(part: str) -> bool:
    """Whether a part of an arm is the transform of the gradient, registered or of the user's own.

    Args:
        part: One of those between the ``+`` of an arm.

    Returns:
        True for the transform alone.

    Example:
        >>> arm = "sgd(momentum) + mine:soft_clip(momentum) + schedule(mine:warm)"
        >>> [is_transform(part) for part in arm.split(" + ")]
        [False, True, False]
    """
    own = ":" in part and not part.startswith("schedule(")
    return own or part.startswith(("clip", "normalize"))


def tell_apart(things: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels that show only what differs, shortened in the middle, and no two of them equal.

    Args:
        things: Name to value, for each thing, as for :class:`Labels`.

    Returns:
        One label for each; all its values if there is only one thing, or if nothing differs.

    Example:
        >>> tell_apart([{"corpus": "a", "rule": Rule(), "lr": 1.0}, {"corpus": "a", "rule": Rule("clip_norm", 2.0)}])
        ['no clipping lr=1', 'clip_norm=2']
        >>> tell_apart([{"corpus": "penn_treebank_with_split_a"}, {"corpus": "penn_treebank_with_split_b"}])
        ['corpus=penn_tree…_split_a', 'corpus=penn_tree…_split_b']
        >>> tell_apart([{"schedule": {"use": "constant"}}, {"schedule": {"use": "cosine", "final_fraction": 0.01}}])
        ['schedule=constant', 'schedule=cosine(0.01)']
        >>> tell_apart([{"model": {"use": "lstm", "layers": 1, "hidden": n, "embedding": n}} for n in (32, 64)])
        ['model=lstm(hidden=32)', 'model=lstm(hidden=64)']
        >>> tell_apart([{"case": "as published", "clip_norm": 0.25}, {"case": None, "clip_norm": 1.0}])
        ['as published', 'clip_norm=1']
    """
    labels = Labels(things)
    found = [labels.label(thing) for thing in things]
    if not any(found):
        found = [labels.label(thing, every=True) for thing in things]
    empty = THE_ONLY_CELL if len(things) == 1 else "the rest"
    return _numbered([label or empty for label in found])


_MISSING = object()


def _told_by_the_case(things: Sequence[Mapping[str, Any]], names: Iterable[str]) -> frozenset[str]:
    """The names whose values are the same in all things of a case, whichever case that is."""
    named = [thing for thing in things if thing.get(CASE) is not None]
    if not named or CASE not in names:
        return frozenset()
    told = set()
    for name in names:
        by_case: dict[str, set[Any]] = {}
        for thing in named:
            by_case.setdefault(thing[CASE], set()).add(key_of(thing[name]) if name in thing else _MISSING)
        if name != CASE and all(len(values) == 1 for values in by_case.values()):
            told.add(name)
    return frozenset(told)


def _numbered(labels: Sequence[str]) -> list[str]:
    """The same labels, with a number behind those that would be equal."""
    counts = Counter(labels)
    if len(counts) == len(labels):
        return list(labels)
    used = {label for label, count in counts.items() if count == 1}
    found = []
    for label in labels:
        number, candidate = 1, label
        while candidate in used or (counts[label] > 1 and candidate == label):
            candidate = f"{label} ({number})"
            number += 1
        found.append(candidate if counts[label] > 1 else label)
        used.add(found[-1])
    return found
