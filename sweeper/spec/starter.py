"""The spec that ``clipsweep init`` writes."""

from __future__ import annotations

import re
from pathlib import Path

from sweeper.spec.sweep import name_of

__all__ = ["STARTER", "starter_spec"]

STARTER = Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8")
"""A commented spec that runs as it is."""


def starter_spec(file: Path) -> str:
    """The starter spec for a file, whose runs go to a directory of the file's name.

    Args:
        file: Where it is to be written.

    Returns:
        Its text.

    Example:
        >>> [line for line in starter_spec(Path("my sweep.yaml")).splitlines() if "runs/" in line][-1]
        'name: my-sweep                       # results go to runs/my-sweep'
    """
    name = name_of(file)
    text = STARTER.replace("THIS_FILE", file.name).replace("runs/starter", f"runs/{name}")
    # The comment stays in its column if the name leaves room for it.
    return re.sub(r"^name: starter +#", f"{f'name: {name} ':<37}#", text, count=1, flags=re.MULTILINE)
