"""``on``: what is called when a trial diverges or fails, and when the sweep is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from sweeper.spec.sections.values import AS_NUMBER, Section, Text, conflict

__all__ = ["Hook", "Hooks"]


class Hook(Section):
    """A command or an HTTP POST."""

    command: tuple[Text, ...] | None = Field(
        default=None,
        min_length=1,
        description="Program and arguments, without a shell; the event is its standard input.",
        examples=[["notify-send", "clipsweep", "a trial diverged"]],
    )
    post: Text | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#]+[^\s]*$",
        description="A URL, http:// or https://, to which the event is posted as JSON.",
        examples=["https://example.org/hook"],
    )
    timeout_s: Annotated[float, Field(gt=0, le=300), AS_NUMBER] = Field(
        default=10, description="How many seconds a call may take, at most 300; then it is ended with its children."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Hook:
        if (self.command is None) == (self.post is None):
            how = "has neither a command nor a post" if self.command is None else "has a command and a post"
            raise conflict(how, "command", "post", hint="give one of them")
        if self.command is not None and (not self.program or any("\0" in part for part in self.command)):
            raise conflict("has no program that can be run", "command", hint="[program, argument, ...]")
        try:
            _ = urlsplit(self.post or "").port
        except ValueError as error:
            raise conflict("has a port that there is not", "post", hint="a port is a number up to 65535") from error
        return self

    @property
    def program(self) -> str:
        """The program that is run; empty for a POST."""
        return self.command[0] if self.command else ""

    @property
    def host(self) -> str:
        """The host that is posted to; the rest of a URL may be a secret."""
        return urlsplit(self.post or "").hostname or "an unknown host"


class Hooks(Section):
    """What is called when."""

    diverged: Hook | None = Field(default=None, description="When a trial has diverged, and the journal says so.")
    failed: Hook | None = Field(default=None, description="When a trial was given up: it failed, or was lost.")
    done: Hook | None = Field(default=None, description="When a driver has left nothing to do.")

    @property
    def given(self) -> Mapping[str, Hook]:
        """Name to hook, of those that there are."""
        found = {"diverged": self.diverged, "failed": self.failed, "done": self.done}
        return {name: hook for name, hook in found.items() if hook is not None}
