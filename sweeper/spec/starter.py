"""The specs that ``clipsweep init`` writes."""

from __future__ import annotations

import re
from pathlib import Path

from sweeper.spec.sweep import name_of

__all__ = ["MODULES", "STARTER", "TEMPLATES", "starter_module", "starter_spec"]

_FOLDER = Path(__file__).with_name("templates")

STARTER = (_FOLDER / "starter.yaml").read_text(encoding="utf-8")
"""A commented spec that runs as it is."""

TEMPLATES = ("starter", "quickstart", "figure2", "theory", "own")
"""What can be started from: every one runs as it is."""

MODULES = {"own": "my_problem.py"}
"""Template to the module of the user's own that is written beside its spec."""


def starter_spec(file: Path, template: str = "starter") -> str:
    """A spec for a file, whose runs go to a directory of the file's name.

    Args:
        file: Where it is to be written.
        template: One of :data:`TEMPLATES`.

    Returns:
        Its text.

    Raises:
        FileNotFoundError: There is no such template.

    Example:
        >>> [line for line in starter_spec(Path("my sweep.yaml")).splitlines() if "runs/" in line][-1]
        'name: my-sweep                       # results go to runs/my-sweep'
    """
    text = (_FOLDER / f"{template}.yaml").read_text(encoding="utf-8")
    (before,) = re.findall(r"^name: (\S+)", text, flags=re.MULTILINE)
    name = name_of(file)
    text = re.sub(r"\bspecs/[\w/-]+\.yaml", lambda _: file.name, text).replace(f"runs/{before}", f"runs/{name}")
    # The comment stays in its column if the name leaves room for it.
    with_comment = rf"^name: {before} +#"
    text = re.sub(with_comment, lambda _: f"{f'name: {name} ':<37}#", text, count=1, flags=re.MULTILINE)
    return re.sub(rf"^name: {before}$", lambda _: f"name: {name}", text, count=1, flags=re.MULTILINE)


def starter_module(template: str) -> str:
    """The module of the user's own that a template begins with.

    Args:
        template: A key of :data:`MODULES`.

    Returns:
        Its source.
    """
    # Not a module of this package, so it is not called like one.
    return (_FOLDER / f"{MODULES[template]}.txt").read_text(encoding="utf-8")
