"""What is private to Ray is used in one module alone."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

import sweeper

PRIVATE = {"_private", "_raylet", "_actor_id", "_temp_dir", "_node_ip_address"}


def test_no_other_module_reaches_into_ray() -> None:
    root = Path(sweeper.__file__).parent
    found = {
        f"{file.relative_to(root)}:{token.start[0]}: {token.string}"
        for file in root.rglob("*.py")
        if file != root / "cluster" / "ray_private.py"
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
        if token.type in {tokenize.NAME, tokenize.STRING} and token.string.strip("\"'") in PRIVATE
    }
    assert found == set()
