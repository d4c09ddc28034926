"""A spec that runs itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.spec.load import load_spec as load_sweep
from sweeper.spec.sweep import Sweep

if TYPE_CHECKING:
    from sweeper.api.runs import Run
    from sweeper.protocol.consent import Consent
    from sweeper.protocol.view import Listener

__all__ = ["Spec", "load_spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(Sweep):
    """A checked spec, which can be run."""

    def run(
        self,
        *,
        out: str | os.PathLike[str] | None = None,
        listener: Listener | None = None,
        address: str | None = None,
        consent: Consent | None = None,
    ) -> Run:
        """Run whatever is missing, as ``clipsweep run`` does; on the same directory again, go on.

        Args:
            out: The run directory; ``runs/<name>`` by default.
            listener: Receives progress, such as a :class:`~sweeper.monitor.notebook.NotebookDisplay`; by default it is
                not shown.
            address: Cluster address instead of the spec's.
            consent: What you agree to that is otherwise refused; by default nothing.

        Returns:
            The run. Trials that failed or an interruption are no exceptions: ``outcome`` says how it ended.

        Raises:
            SpecError: The sweep cannot be expanded.
            ClipsweepError: Ray or PyTorch is not installed; or it would import code or run commands from outside the
                spec's folder, without consent.
            RunDirectoryError: The directory is held by another driver, not a run directory or not writable, or its
                results were made under other conditions.
            ClusterError: Ray cannot be started or joined, or does not have the resources.
            IntegrityError: The journal is damaged.
        """
        from sweeper.api.runs import Run
        from sweeper.run import run_sweep

        folder = None if out is None else Path(out)
        outcome = run_sweep(self, out=folder, listener=listener, address=address, consent=consent)
        run = Run(outcome.run_dir)
        run.outcome = outcome
        return run


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Spec:
    """Read and check a spec file.

    Args:
        path: The file.
        overrides: ``path=value`` each, in place of what the file says.

    Returns:
        The spec, which can be run.

    Raises:
        SpecError: The file cannot be read, or is not a spec; all problems at once.
    """
    sweep = load_sweep(Path(path), overrides)
    return Spec(**{part.name: getattr(sweep, part.name) for part in fields(sweep)})
