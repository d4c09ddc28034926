"""Texts as token numbers: the one that comes with every Python, or a directory of your own."""

from __future__ import annotations

import hashlib
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainers.data.decoded import Decoded, decoded
from trainers.data.sources import SOURCES, SPLITS, find_folder, text_files, where_it_goes
from trainers.errors import DataError

__all__ = ["Corpus", "load_corpus"]

_UNKNOWN, _END = "<unk>", "<eos>"

# Tokens of the three texts with one end token per line, and words: Mikolov's preprocessing, which published figures
# use.
_KNOWN_SIZES = {"ptb": (929_589, 73_760, 82_430, 10_000)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """A text in three splits.

    Attributes:
        train: Token numbers, int64, shape (num_tokens,). The splits are shared by all callers: not to be changed.
        valid: The same of the validation text.
        test: The same of the test text.
        vocabulary: Token by number.
        fingerprint: Name, origin and hash of all tokens.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    fingerprint: str


def load_corpus(name: str) -> Corpus:
    """A corpus by name or directory.

    Args:
        name: ``python-docs`` for the language reference that comes with this Python (its text, and so everything
            computed from it, differs between Python versions); ``ptb`` or ``wikitext2`` for what ``clipsweep data
            fetch`` brought; or a directory with three texts, ``ptb.train.txt``,
            ``train.txt`` or ``wiki.train.tokens`` and its like for valid and test: whitespace between tokens, one
            sentence per line, in UTF-8 with or without a byte order mark. Lines end at a line feed alone.

    Returns:
        The corpus; a second call in the same process costs nothing while the files stay as they are.

    Raises:
        DataError: There is no such corpus, it has not been fetched, it does not have its known size, or a
            file is missing, empty or not UTF-8 text.
    """
    if name == "python-docs":
        return _python_docs()
    folder = find_folder(name, "corpus", built_in="python-docs")
    paths = text_files(folder)
    stamps = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    corpus = _from_files(paths, stamps)
    if name in _KNOWN_SIZES:
        found = (len(corpus.train), len(corpus.valid), len(corpus.test), len(corpus.vocabulary))
        if found != _KNOWN_SIZES[name]:
            raise DataError(
                f"{folder}: these texts are not {name!r} as it is known: train, valid and test tokens and words are "
                f"{found}, but should be {_KNOWN_SIZES[name]}; remove the folder and {where_it_goes(SOURCES[name])}"
            )
    return corpus


@lru_cache(maxsize=4)
def _from_files(paths: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> Corpus:
    """A corpus from its files; ``stamps`` only tells the cache when they changed."""
    return _named(paths[0].parent.name, decoded("text-2", paths, lambda: _decode(paths)))


def _decode(paths: Sequence[Path]) -> Decoded:
    """Token numbers of the files of train, valid and test text."""
    tokens = {}
    for split, path in zip(SPLITS, paths, strict=True):
        try:
            lines = _lines(path.read_bytes())
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text: {error}") from error
        tokens[split] = [token for line in lines for token in (*line.split(), _END)]
        if not any(line.strip() for line in lines):
            raise DataError(f"{path}: holds no token")
    # The training text's words, in the order of their first appearance; a preprocessed text has no others.
    vocabulary = dict.fromkeys(tokens["train"])
    return _numbered(tokens, vocabulary)


def _lines(data: bytes) -> list[str]:
    """The lines of a text, which end at a line feed alone: a form feed or U+2028 within one is a space, not an end."""
    # A byte order mark, as some editors write it, is not part of the first word.
    lines = data.decode("utf-8-sig").split("\n")
    return lines if lines[-1] else lines[:-1]


@lru_cache(maxsize=1)
def _python_docs() -> Corpus:
    """The language reference, its repeated paragraphs dropped, split 90 / 5 / 5 by paragraph."""
    # Imported here: the module is a megabyte of text that no other corpus needs.
    from pydoc_data.topics import topics

    tokens: dict[str, list[str]] = {split: [] for split in SPLITS}
    paragraphs = (part for key in sorted(topics) for part in re.split(r"\n\s*\n", topics[key]) if part.strip())
    for paragraph in dict.fromkeys(paragraphs):
        share = int.from_bytes(hashlib.blake2b(paragraph.encode(), digest_size=8).digest(), "big") % 100
        split = "train" if share < 90 else "valid" if share < 95 else "test"
        for line in paragraph.splitlines():
            tokens[split] += [*re.findall(r"\w+|[^\w\s]", line.lower()), _END]
    counts = Counter(tokens["train"])
    vocabulary = [_UNKNOWN, *(token for token, count in counts.items() if count >= 2)]
    return _named(f"python-docs:python-{platform.python_version()}", _numbered(tokens, vocabulary))


def _named(name: str, text: Decoded) -> Corpus:
    """A named corpus from token numbers and words."""
    splits = {split: torch.from_numpy(text.arrays[split]) for split in SPLITS}
    return Corpus(**splits, vocabulary=tuple(text.facts["vocabulary"]), fingerprint=f"{name}:{text.facts['digest']}")


def _numbered(tokens: Mapping[str, list[str]], vocabulary: Iterable[str]) -> Decoded:
    """Number the tokens."""
    numbers = {token: number for number, token in enumerate(vocabulary)}
    if any(token not in numbers for split in tokens.values() for token in split):
        numbers.setdefault(_UNKNOWN, len(numbers))
    unknown = numbers.get(_UNKNOWN, -1)
    coded = {
        split: np.array([numbers.get(token, unknown) for token in words], dtype=np.int64)
        for split, words in tokens.items()
    }
    digest = hashlib.blake2b("\n".join(numbers).encode(), digest_size=8)
    for split in SPLITS:
        digest.update(split.encode() + coded[split].tobytes())
    return Decoded(arrays=coded, facts={"vocabulary": list(numbers), "digest": digest.hexdigest()})
