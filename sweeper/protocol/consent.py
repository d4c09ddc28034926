"""What is refused unless the user agrees to it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Consent"]


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What the user has agreed to, each through an option of the command line; by default nothing.

    Attributes:
        drift: Continue even if torch, Python, the processor, the thread count or the user's own code changed.
        change: Continue even if the changed spec replaces trials that were begun.
        new_measurement: Continue even if what is measured changed.
        insecure_cluster: Join a cluster that others can reach and that has no token.
        code: Import code and run commands from outside the spec's own folder, and post to where it says.

    Example:
        >>> Consent(drift=True).options
        ('--accept-drift',)
    """

    drift: bool = False
    change: bool = False
    new_measurement: bool = False
    insecure_cluster: bool = False
    code: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The options of ``clipsweep run`` that express it."""
        given = {
            "--accept-drift": self.drift,
            "--accept-change": self.change,
            "--new-measurement": self.new_measurement,
            "--insecure-cluster": self.insecure_cluster,
            "--allow-code": self.code,
        }
        return tuple(option for option, agreed in given.items() if agreed)
