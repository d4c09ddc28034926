"""What of a spec is not for everybody who gets a page: the addresses and arguments of ``on`` may be secrets."""

from __future__ import annotations

import re

import yaml

__all__ = ["without_hooks"]

_KEY = re.compile(r"""^(on|"on"|'on')[ \t]*:""")
_LEFT_OUT = "# on: left out, since addresses and arguments may be secrets"


def without_hooks(text: str) -> str:
    r"""A spec without its section ``on``.

    Args:
        text: YAML.

    Returns:
        The text with a comment in the section's place; empty where that may still hold the section.

    Example:
        >>> print(without_hooks("name: a\non:\n  done: {post: https://h/secret}\nsweep: {seeds: 2}"))
        name: a
        # on: left out, since addresses and arguments may be secrets
        sweep: {seeds: 2}
        >>> without_hooks("{name: a, on: {done: {post: https://h/secret}}}")
        ''
    """
    kept: list[str] = []
    is_within = False
    for line in text.splitlines():
        if _KEY.match(line):
            is_within = True
            kept.append(_LEFT_OUT)
        elif not (is_within and (not line.strip() or line[0] in " \t#-}")):
            is_within = False
            kept.append(line)
    cut = "\n".join(kept)
    try:
        left = yaml.safe_load(cut)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ""
    # YAML 1.1 reads the key as true.
    return "" if not isinstance(left, dict) or {"on", True} & left.keys() else cut
