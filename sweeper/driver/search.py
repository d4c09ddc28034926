"""A search within a running sweep: asks when trials have ended, and records what it asks for before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sweeper.driver.commit import Committer
from sweeper.planning.plan import Trial, record_of
from sweeper.planning.searching import Searching
from sweeper.store.records import Planned

__all__ = ["Search"]


class _Tells(Protocol):
    """Shows where the search stands."""

    search: str | None


class Search:
    """Asks a search for more trials whenever another one has ended.

    Args:
        searching: The search, on the committer's state.
        committer: Records what is asked for.
        measurement: Id of the measure section in force.

    Attributes:
        tell: Is told where the search stands, where there is one to be told.
    """

    def __init__(self, searching: Searching, committer: Committer, *, measurement: str) -> None:
        self.tell: _Tells | None = None
        self._searching = searching
        self._committer = committer
        self._measurement = measurement
        self._asked_at = -1

    @property
    def most(self) -> int:
        """The most trials that may run at a time."""
        extent = self._searching.extent
        assert extent is not None, "a search that runs has been imported"
        return extent.worst

    def more(self) -> Sequence[Trial]:
        """The trials that are wanted besides those that were asked for.

        Returns:
            New trials, each in the journal now; none where no trial has ended since the last call.

        Raises:
            SpecError: A value that it asks for is not one that the spec allows.
        """
        state = self._committer.state
        if state.num_ended == self._asked_at:
            return ()
        self._asked_at = state.num_ended
        asked = self._searching.ask()
        if self.tell is not None:
            self.tell.search = asked.text
        if asked.trials:
            new = [trial for trial in asked.trials if trial.trial_id not in state.trials]
            code, cases = self._searching.code, {t.cell_id: t.case for t in new if t.case is not None}
            self._committer.record(
                Planned(
                    measurement=self._measurement,
                    measure=state.measurements[self._measurement],
                    trials=tuple(record_of(trial, code) for trial in new),
                    cases={**state.cases, **cases} if cases else None,
                    until=asked.until,
                )
            )
        return asked.trials
