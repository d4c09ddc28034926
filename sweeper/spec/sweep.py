"""What one spec describes, checked and with every default filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.spec.cells import Cell, Template
from sweeper.spec.paths import TRAINED, swept_paths
from sweeper.spec.sections.axes import SweepBlock
from sweeper.spec.sections.hooks import Hooks
from sweeper.spec.sections.measure import Measure
from sweeper.spec.sections.problems import OwnProblem
from sweeper.spec.sections.settings import Cluster, Resources, Train
from sweeper.spec.sections.update_rule import UpdateRule
from sweeper.spec.sections.values import Section
from sweeper.spec.variants import look_up

__all__ = ["Sweep", "name_of"]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that one spec describes.

    Attributes:
        name: The run directory's name.
        problem: What is minimised, as the first cell has it.
        update_rule: How a step is taken, as the first cell has it.
        train: How long, as the first cell has it.
        measure: When and what is measured; None for nothing.
        metrics: Metric to ``min`` or ``max``: which of its values is the best, where the problem does not say it.
        sweep: Which values vary.
        resources: What the workers use.
        cluster: Where they run.
        hooks: What is called when a trial diverges or fails, and when the sweep is done; None for nothing.
        cells: Every cell, in the order of the plan; of a search, every cell at the ends of its range.
        template: What the cells of a search are made from.
        source_path: The file it was read from, if it was one.
        folder: What relative paths in it are relative to.
        text: The spec as it was written.
        overrides: Values from the command line, ``path=value``.
        written: The sections that are trained with, without defaults and without what is swept.
    """

    name: str
    problem: Section
    update_rule: UpdateRule
    train: Train
    measure: Measure | None
    metrics: Mapping[str, str] = field(default_factory=dict)
    sweep: SweepBlock
    resources: Resources
    cluster: Cluster
    hooks: Hooks | None = None
    cells: tuple[Cell, ...] = field(repr=False)
    template: Template = field(repr=False)
    source_path: Path | None
    folder: Path
    text: str = field(repr=False)
    overrides: tuple[str, ...]
    written: Mapping[str, Any] = field(repr=False)

    def resolved(self) -> dict[str, Any]:
        """The whole spec with every default filled in; read as a spec, it gives the same trials.

        Returns:
            JSON-able sections in the order of the manual. Swept paths stand as the spec has them outside ``sweep``.
            A section of which a part with its own options is swept is given as written, since its defaults differ
            from cell to cell.
        """
        trained = {
            name: self._filled(name, section)
            for name, section in zip(TRAINED, (self.problem, self.update_rule, self.train), strict=True)
        }
        return {
            "name": self.name,
            **trained,
            "measure": None if self.measure is None else self.measure.model_dump(mode="json"),
            "metrics": dict(self.metrics),
            "sweep": self.sweep.model_dump(mode="json"),
            "resources": self.resources.model_dump(mode="json"),
            "cluster": self.cluster.model_dump(mode="json"),
            **({} if self.hooks is None else {"on": self.hooks.model_dump(mode="json", exclude_none=True)}),
        }

    def _filled(self, name: str, section: Section) -> Any:
        written, full = self.written[name], section.model_dump(mode="json")
        if isinstance(section, OwnProblem):
            # Its defaults are those of the factory.
            return written
        for path in swept_paths(self.sweep):
            first, *steps = path.split(".")
            if first != name:
                continue
            if steps[-1] == "use" or isinstance(look_up(full, steps), dict):
                return written
            _restore(full, written, steps)
        return full


def _restore(full: dict[str, Any], written: Any, steps: list[str]) -> None:
    """Put back what the spec says outside ``sweep``, in place; drop the key where it says nothing."""
    for step in steps[:-1]:
        full, written = full[step], written.get(step, {})
    if steps[-1] in written:
        full[steps[-1]] = written[steps[-1]]
    else:
        full.pop(steps[-1], None)


def name_of(file: Path) -> str:
    """The name of a sweep whose spec does not say it, and so that of its run directory.

    Args:
        file: The spec's file.

    Returns:
        The file's name without its suffix, with what cannot be in a run directory's name replaced.

    Example:
        >>> name_of(Path("specs/my sweep.yaml"))
        'my-sweep'
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).lstrip("-._")
    return stem[:64] or "sweep"
