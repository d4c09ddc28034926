"""Run directories of loops that somebody else has written: the same tables as a sweep's, without a sweep."""

from sweeper.recording.trial import RecordedTrial as RecordedTrial
from sweeper.recording.trial import open_trial as open_trial

__all__ = ["RecordedTrial", "open_trial"]
