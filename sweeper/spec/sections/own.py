"""Something of the user's own in a spec, by import path: its options are passed to the factory unchanged."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, model_validator

from sweeper.spec.entry_points import installed, is_own
from sweeper.spec.sections.values import FreeValue, Section, conflict, nested
from sweeper.spec.syntax.diagnostics import shown

__all__ = ["IMPORT_PATH", "PLACES", "Own", "by_use", "resolved"]

IMPORT_PATH = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"
"""``package.module:factory``."""


PLACES = "package.module:factory, looked for next to the spec, in the working directory and on sys.path."
"""What ``use`` is there, in words."""


class Own(Section):
    """Something of the user's own; its options are passed to the factory unchanged."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FreeValue]

    use: str = Field(
        pattern=IMPORT_PATH,
        description=PLACES,
        examples=["my_package.my_module:my_factory"],
    )

    @model_validator(mode="after")
    def _free_names(self) -> Own:
        for name in self.__pydantic_extra__:
            if "." in name:
                # `update_rule.schedule.a.b` in a sweep sets b in the section a, and would leave an option a.b as it is.
                raise conflict("the name has a dot, which would lead into a section", name, hint=nested(name))
        return self


def resolved(kind: str) -> BeforeValidator:
    """For ``use``: a name that an installed package adds becomes the import path that it stands for.

    Args:
        kind: A key of :data:`~sweeper.spec.entry_points.GROUPS`.

    Returns:
        A validator; any other value stays as it is.
    """

    def resolve(use: Any) -> Any:
        return installed(kind)[use].use if isinstance(use, str) and ":" not in use and is_own(kind, use) else use

    return BeforeValidator(resolve)


def by_use(kind: str, registered: Collection[str]) -> Discriminator:
    """Tells apart sections by ``use``: those of registered names by these, one of the user's own as ``own``.

    Args:
        kind: A key of :data:`~sweeper.spec.entry_points.GROUPS`.
        registered: The registered names, which win over those that installed packages add.

    Returns:
        A discriminator, for sections that are tagged so.
    """

    def tag(value: Any) -> str | None:
        if isinstance(value, Section):
            use = getattr(value, "use", None)
        else:
            use = value.get("use") if isinstance(value, dict) else None
        if use is None:
            return None
        if not isinstance(use, str):
            return shown(use)
        return use if use in registered else "own" if is_own(kind, use) else use

    return Discriminator(tag)
