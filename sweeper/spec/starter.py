"""The spec that ``clipsweep init`` writes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["STARTER"]

STARTER = Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8")
"""A commented spec that runs as it is."""
