"""One thread a process: results are compared bit for bit, and two OpenMP threads on a busy machine collapse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real PTB and CIFAR-10 files, where there is one."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("CLIPSWEEP_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here; CLIPSWEEP_TEST_DATA names a folder with ptb/ and cifar10-subset/")
    return folder
