"""Something of the user's own in a spec, by import path: its options are passed to the factory unchanged."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from sweeper.spec.sections.values import FreeValue, Section, conflict, nested
from sweeper.spec.syntax.diagnostics import shown

__all__ = ["IMPORT_PATH", "Own", "kind_of_use"]

IMPORT_PATH = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"
"""``package.module:factory``."""


class Own(Section):
    """Something of the user's own; its options are passed to the factory unchanged."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FreeValue]

    use: str = Field(
        pattern=IMPORT_PATH,
        description="package.module:factory, looked for next to the spec, in the working directory and on sys.path.",
        examples=["my_package.my_module:my_factory"],
    )

    @model_validator(mode="after")
    def _free_names(self) -> Own:
        for name in self.__pydantic_extra__:
            if "." in name:
                # `update_rule.schedule.a.b` in a sweep sets b in the section a, and would leave an option a.b as it is.
                raise conflict("the name has a dot, which would lead into a section", name, hint=nested(name))
        return self


def kind_of_use(value: Any) -> str | None:
    """Which of several sections is meant: that of a registered name, or ``own`` for an import path.

    Args:
        value: A section, or what was read in its place.

    Returns:
        The name; None where there is none.

    Example:
        >>> kind_of_use({"use": "cosine"}), kind_of_use({"use": "mine:cosine"}), kind_of_use({})
        ('cosine', 'own', None)
    """
    if isinstance(value, Section):
        use = getattr(value, "use", None)
    else:
        use = value.get("use") if isinstance(value, dict) else None
    if use is None:
        return None
    if not isinstance(use, str):
        return shown(use)
    return "own" if ":" in use else use
