"""What a user may agree to, that is refused otherwise."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Consent"]


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What the user has agreed to, each by an option of the command line; by default nothing.

    Attributes:
        drift: Go on although torch, Python, the processor, the thread count or the user's own code changed.
        change: Go on although the spec changed so that other trials take the place of those that were begun.
        new_measurement: Go on although the measure section changed.
        insecure_cluster: Join a cluster without a token that others can reach.
        code: Import code that does not lie in the spec's own folder.

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
        """The options of ``clipsweep run`` that give it."""
        given = {
            "--accept-drift": self.drift,
            "--accept-change": self.change,
            "--new-measurement": self.new_measurement,
            "--insecure-cluster": self.insecure_cluster,
            "--allow-code": self.code,
        }
        return tuple(option for option, agreed in given.items() if agreed)
