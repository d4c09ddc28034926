"""The user's mistakes, one family: what went wrong, where, and how to fix it; and how any exception becomes text."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Sequence
from typing import Any, Literal, Protocol

__all__ = [
    "ClipsweepError",
    "ClusterError",
    "IntegrityError",
    "Problem",
    "RunDirectoryError",
    "SpecError",
    "clean_text",
    "error_line",
    "error_text",
    "error_traceback",
    "last_line",
    "left_advice",
    "left_on_gpu",
    "memory_advice",
    "out_of_memory",
    "spoils_gpu",
    "with_last_lines",
]

_LINE = 500
"""Characters of an exception in a table or a message: room for a path and a remedy."""

_TEXT = 64_000
"""Characters of a whole text or traceback: a spec's thousand mistakes, or the frames of a deep recursion."""


def memory_advice(resource: str) -> str:
    """What to do when memory is short.

    Args:
        resource: ``cpus`` or ``gpus``, depending on whose memory it is.

    Returns:
        The end of a message.
    """
    return f"lower the problem's batch_size, or have fewer workers share the memory (resources.*.{resource} or count)"


def last_line(printed: str) -> str:
    r"""What a process printed last, as a part of a message about its end.

    Args:
        printed: Its last lines.

    Returns:
        One that begins with a semicolon, cut if it is long; empty if it printed nothing.

    Example:
        >>> last_line("loading\nno such corpus\n")
        '; it printed last: no such corpus'
        >>> last_line('Fatal Python error: Aborted\n  File "own.py", line 3 in make\nExtension modules: torch')
        '; it printed last: Fatal Python error: Aborted (own.py, line 3 in make)'
    """
    lines = [line.strip() for line in printed.strip().splitlines() if not line.startswith("Extension modules: ")]
    lines = [line for line in lines if line]
    if not lines:
        return ""
    crash = next((place for place, line in enumerate(lines) if line.startswith("Fatal Python error: ")), None)
    last = lines[-1] if crash is None else lines[crash] + _crashed_in(lines[crash + 1 :])
    return f"; it printed last: {_cut(clean_text(last), 300)}"


_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<number>\d+) in (?P<function>.+)')


def _crashed_in(lines: Sequence[str]) -> str:
    """The innermost frame of a crash that is not in installed code; any, if all are."""
    frames = [found for line in lines if (found := _FRAME.match(line))]
    own = [frame for frame in frames if not _is_installed(frame["file"])]
    for frame in (own or frames)[:1]:
        return f" ({frame['file']}, line {frame['number']} in {frame['function']})"
    return ""


def _is_installed(file: str) -> bool:
    return file.startswith("<frozen ") or any(file.startswith(folder) for folder in sysconfig.get_paths().values())


def with_last_lines(error: str, printed: str) -> str:
    """How a process ended, with what it printed last, for a log.

    Args:
        error: How it ended.
        printed: Its last lines.

    Returns:
        Both; the first alone if it printed nothing.

    Example:
        >>> with_last_lines("it crashed", "loading").splitlines()
        ['it crashed', 'Its last lines:', 'loading']
    """
    return f"{error}\nIts last lines:\n{printed}" if printed else error


_UNUSABLE = "a GPU's context that nothing can use any more"


def left_on_gpu(error: BaseException) -> str | None:
    """What an error leaves behind in the process that it was raised in.

    Args:
        error: What was raised, by whatever code.

    Returns:
        Words about a GPU's context where :func:`spoils_gpu`; None otherwise.

    Example:
        >>> left_on_gpu(RuntimeError("CUDA error: device-side assert triggered"))
        "a GPU's context that nothing can use any more (RuntimeError: CUDA error: device-side assert triggered)"
    """
    return f"{_UNUSABLE} ({error_line(error)})" if spoils_gpu(error) else None


def left_advice(left_behind: str) -> str:
    """What a worker says of user code that leaves its process unfit for other trials.

    Args:
        left_behind: What it has changed.

    Returns:
        The end of a message about that code.
    """
    if left_behind.startswith(_UNUSABLE):
        return f"left {left_behind}"
    return (
        f"leaves behind what cannot be put back for other trials ({left_behind}): do that where the module is "
        "imported, outside its functions, and no process has to be replaced"
    )


class ClipsweepError(ValueError):
    """A mistake of the user or a failure of the machine; its text can be shown as it is.

    Attributes:
        exit_code: What the command line returns for it: 2 for usage, 3 for a cluster or internal error.
    """

    exit_code = 2


class Problem(Protocol):
    """One of several things that are wrong with a spec."""

    def document(self) -> dict[str, Any]:
        """The problem for a program: ``file``, ``line``, ``column``, ``path``, ``message`` and ``hint``."""


class SpecError(ClipsweepError):
    """A spec that cannot be read; each problem is on its own lines, with file, line, column and key.

    Attributes:
        problems: All of them, also those that the text leaves out; none where the spec could not be read at all.

    Args:
        text: The problems for people.
        problems: The same for programs.
    """

    def __init__(self, text: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)


class RunDirectoryError(ClipsweepError):
    """A run directory that cannot be used: missing, locked, foreign, unwritable or of another spec."""


class IntegrityError(ClipsweepError):
    """Stored bytes that are not what was written: a hash, a journal line or a key does not match."""

    exit_code = 3


class ClusterError(ClipsweepError):
    """Ray cannot be started or reached, or does not have the resources that the spec asks for."""

    exit_code = 3


# An exception as text: whatever a user's code raises is shown, sent, journalled and logged, so its text must be finite
# and can be encoded, and making it must not raise.


def error_line(error: BaseException) -> str:
    r"""An exception as one line of a table, a journal or a message.

    Args:
        error: What was raised, by whatever code.

    Returns:
        Its type and the first line of its text, at most about 500 characters that every encoding can hold, and what to
        do if memory ran out.

    Example:
        >>> error_line(ValueError("no such width"))
        'ValueError: no such width'
        >>> error_line(FileNotFoundError("no text in caf\udce9.txt"))  # a Latin-1 name, as os.listdir gives it
        'FileNotFoundError: no text in caf\\xe9.txt'
    """
    text, kind = error_text(error).strip(), type(error).__name__
    line = _cut(f"{kind}: {text.splitlines()[0].rstrip()}" if text else kind, _LINE)
    if resource := out_of_memory(error):
        return f"{line}; {memory_advice(resource)}"
    return line


def out_of_memory(error: BaseException) -> Literal["", "cpus", "gpus"]:
    """Whether memory ran out, and whose.

    Args:
        error: What was raised, by whatever code.

    Returns:
        ``gpus`` for a GPU's, ``cpus`` for the machine's; empty for another error.

    Example:
        >>> out_of_memory(MemoryError()), out_of_memory(ValueError("no such width"))
        ('cpus', '')
    """
    # By name: torch is not loaded for this.
    if any(base.__name__ == "OutOfMemoryError" and base.__module__ == "torch" for base in type(error).__mro__):
        return "gpus"
    text = error_text(error)
    # Not from torch's allocator, but from a kernel or a library that allocates by itself.
    if isinstance(error, RuntimeError) and any(sign in text for sign in _GPU_MEMORY):
        return "gpus"
    # Torch's allocator on the host raises a bare RuntimeError.
    return "cpus" if isinstance(error, MemoryError) or "can't allocate memory" in text else ""


_GPU_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_GPU_ERRORS = ("CUDA error", "device-side assert", "illegal memory access", "ECC error")


def spoils_gpu(error: BaseException) -> bool:
    """Whether every later call of CUDA in the same process would fail, too.

    Args:
        error: What was raised, by whatever code; what led to it counts.

    Returns:
        True for an error of a GPU that is neither a lack of memory nor a refusal to record a graph.

    Example:
        >>> spoils_gpu(RuntimeError("CUDA error: an illegal memory access was encountered"))
        True
        >>> spoils_gpu(RuntimeError("CUDA out of memory")), spoils_gpu(ValueError("no such width"))
        (False, False)
    """
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        text = error_text(one)
        # By name: torch is not loaded for this, and older releases have no such error.
        named = any(base.__name__ == "AcceleratorError" and base.__module__ == "torch" for base in type(one).__mro__)
        if (named or (isinstance(one, RuntimeError) and any(sign in text for sign in _GPU_ERRORS))) and not (
            out_of_memory(one) or "captur" in text.lower()
        ):
            return True
        one = one.__cause__ or one.__context__
    return False


def error_text(error: BaseException) -> str:
    """The text of an exception, without its type.

    Args:
        error: What was raised, by whatever code.

    Returns:
        One line or several that every encoding can hold; cut if they are very long.

    Example:
        >>> class Unspeakable(Exception):
        ...     def __str__(self):
        ...         return self.args[7]
        >>> error_text(Unspeakable("secret"))
        '<no text: its __str__ raised IndexError>'
    """
    try:
        text = str(error)
    except BaseException as second:  # also an exit: what is asked for is a text
        text = f"<no text: its __str__ raised {type(second).__name__}>"
    return _cut(clean_text(text), _TEXT)


def error_traceback(error: BaseException) -> str:
    """An exception with its traceback and what led to it, for a log.

    Args:
        error: What was raised, by whatever code.

    Returns:
        What Python prints for it, without a line break at the end; cut in the middle if it is very long.

    Example:
        >>> print(error_traceback(ValueError("no such width")))
        ValueError: no such width
    """
    try:
        lines = "".join(traceback.format_exception(error)).splitlines()
    except Exception as second:
        lines = [error_line(error), f"<no traceback: formatting it raised {type(second).__name__}>"]
    text = "\n".join(_cut(clean_text(line), _TEXT // 8) for line in lines)
    if len(text) > _TEXT:
        half = _TEXT // 2
        text = f"{text[:half]}\n[... {len(text) - _TEXT} characters left out ...]\n{text[-half:]}"
    return text


def clean_text(text: str) -> str:
    r"""Text that UTF-8 can encode.

    Args:
        text: Any; undecodable bytes are in it as Python reads them, as lone surrogates.

    Returns:
        The text, with those bytes written out.

    Example:
        >>> clean_text("caf\udce9"), clean_text("café")
        ('caf\\xe9', 'café')
    """
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half of a pair that was no byte
        data = text.encode(errors="backslashreplace")
    return data.decode(errors="backslashreplace")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
