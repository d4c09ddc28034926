"""Loops of Lightning and of transformers, each in a process of its own: what they are, and how they are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["HIDE_TORCHVISION", "answers_of"]

ROOT = Path(__file__).parents[3]

HIDE_TORCHVISION = """
try:
    import torchvision
except (ImportError, RuntimeError):
    # Of another build than torch. Libraries ask only whether it is installed, and then import it.
    import importlib.metadata
    import importlib.util

    def version(name, known=importlib.metadata.version):
        if name == "torchvision":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    def find_spec(name, *rest, known=importlib.util.find_spec):
        return None if name.partition(".")[0] == "torchvision" else known(name, *rest)

    importlib.metadata.version, importlib.util.find_spec = version, find_spec
"""
"""What a script begins with that imports one of these libraries."""


def answers_of(script: str, *arguments: str) -> Any:
    """What a script prints as the last line of its output, as JSON; offline, on the CPU."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])
