"""What an installation that only reads runs does not have."""

from __future__ import annotations

from importlib.util import find_spec

from sweeper.errors import ClipsweepError

__all__ = ["require_installed"]


def require_installed(what: str, *names: str) -> None:
    """Refuse what cannot work in this installation, before anything is begun.

    Args:
        what: What needs the packages, as the subject of a sentence.
        *names: Packages of the extra ``run``, by the names that they are imported by.

    Raises:
        ClipsweepError: One of them is not installed.

    Example:
        >>> require_installed("clipsweep run", "json", "torchh")
        Traceback (most recent call last):
        ...
        sweeper.errors.ClipsweepError: clipsweep run needs torchh, which is not installed: pip install 'clipsweep[run]'
    """
    missing = [name for name in names if not _is_there(name)]
    if missing:
        plural = "are" if len(missing) > 1 else "is"
        raise ClipsweepError(
            f"{what} needs {' and '.join(missing)}, which {plural} not installed: pip install 'clipsweep[run]'"
        )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
