"""Which commit a folder's files are at, asked of git without running anything that the repository itself names."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["output_of", "revision_of"]

_TIMEOUT_S = 2.0

_KEPT = {"GIT_CEILING_DIRECTORIES", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH"}
"""Variables of git's that are the user's settings; the others say which repository a hook, say, is about."""

# A repository may come from anybody, and its own config names programs. Git refuses repositories that belong to other
# users (safe.directory), but not what this user has unpacked.
_OVERRIDES = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    # Not a bare one that lies among the files of another, with a config that came with these files.
    "safe.bareRepository=explicit",
)


def revision_of(folder: Path, *, tracked: Path | None = None) -> dict[str, Any] | None:
    """The commit that a folder's repository is at.

    Args:
        folder: A folder in its working tree.
        tracked: A file that must belong to the repository; for code that may be installed below somebody's own.

    Returns:
        ``commit``, ``branch`` (None where no branch is checked out) and ``uncommitted_changes`` (whether tracked files
        differ from the commit; None where git does not say in time). None where there is no repository, no commit or
        no git.
    """
    git = _Git(folder)
    if tracked is not None and git("ls-files", "--error-unmatch", "--", str(tracked)) is None:
        return None
    heads = (git("rev-parse", "HEAD", "--abbrev-ref", "HEAD") or "").split()
    if len(heads) != 2:
        return None
    commit, branch = heads
    return {"commit": commit, "branch": None if branch == "HEAD" else branch, "uncommitted_changes": git.changed()}


class _Git:
    """Git's plumbing in one folder, with everything overridden by which its config could start a program.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._program = shutil.which("git")
        self._folder = folder
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT
        } | {
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            # A partial clone would fetch what it lacks, by a program that its config names.
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ALLOW_PROTOCOL": "none",
        }

    def __call__(self, *arguments: str, overrides: Sequence[str] = ()) -> str | None:
        """What git prints; None where it fails, takes too long, or is missing."""
        if self._program is None:
            return None
        settings = [word for setting in (*_OVERRIDES, *overrides) for word in ("-c", setting)]
        command = [self._program, "--no-optional-locks", *settings, "-C", str(self._folder), *arguments]
        return output_of(*command, env=self._environment)

    def changed(self) -> bool | None:
        """Whether tracked files differ from the commit; None where that cannot be told."""
        # A filter turns a file into what is stored, by a program: git would run it on files that seem to have changed.
        # Without it they count as changed, which errs on the safe side.
        found = self("config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process|required)$")
        names = {key.rpartition(".")[0] for key in (found or "").split("\0") if key}
        if any("=" in name for name in names):
            return None  # git could not be told which filter is meant
        without = [
            f"{name}.{setting}" for name in sorted(names) for setting in ("clean=", "process=", "required=false")
        ]
        # Submodules have configs of their own.
        said = self("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", overrides=without)
        return None if said is None else bool(said.strip())


def output_of(*command: str, env: dict[str, str] | None = None) -> str | None:
    """What a quick program prints.

    Args:
        command: The program and its arguments.
        env: Its environment; this process's by default.

    Returns:
        Its output; None where it fails, takes more than two seconds, or is missing.
    """
    try:
        ended = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return ended.stdout if ended.returncode == 0 else None
