"""Names of files and folders for what users have named: any text, and nothing that leads out of a folder."""

from __future__ import annotations

import re

import xxhash

__all__ = ["cell_folder", "safe_name", "trial_name"]

_WIDTH = 80
_OTHER = re.compile(r"[^A-Za-z0-9._=+-]+")


def safe_name(text: str) -> str:
    r"""A text as the name of a file, equal only for equal texts.

    Args:
        text: Any text.

    Returns:
        The text, if it is short and of letters, digits and ``._=+-`` alone; otherwise what it has of these, and a hash.

    Example:
        >>> safe_name("clip_norm=0.25")
        'clip_norm=0.25'
        >>> safe_name("../../etc/passwd\n%s").partition("~")[0], len(safe_name("x" * 5000)) < 100
        ('etc_passwd_s', True)
    """
    plain = _OTHER.sub("_", text).lstrip("._-").rstrip("_.")[:_WIDTH]
    return plain if plain == text and text else f"{plain}~{xxhash.xxh3_64_hexdigest(text.encode(errors='replace'))[:8]}"


def cell_folder(cell: str, cell_id: str) -> str:
    """The folder of a cell, which holds its seeds.

    Args:
        cell: What the cell is called.
        cell_id: Its id, which tells cells apart that are called alike.

    Returns:
        A safe name.

    Example:
        >>> cell_folder("learning_rate=1 clip_norm=0.25", "0123456789abcdef").partition("~")[0]
        'learning_rate=1_clip_norm=0.25_0123456789abcdef'
    """
    return safe_name(f"{cell} {cell_id}")


def trial_name(seed: int, trial_id: str) -> str:
    """The name of a trial within its cell.

    Args:
        seed: Its seed.
        trial_id: Its id.

    Returns:
        A safe name.

    Example:
        >>> trial_name(3, "0123456789abcdef")
        'seed=3-0123456789abcdef'
    """
    return safe_name(f"seed={seed}-{trial_id}")
