"""Fuzz the readers of files: ``fuzz.py [--seconds N] [READER...]``; what breaks one is kept in its corpus.

With atheris, which is guided by what code an input reaches, where that is installed (``pip install atheris``, for the
Pythons it is made for); with a long run of Hypothesis otherwise. Exits with 1 where something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import time
import traceback
from pathlib import Path

CORPORA = Path(__file__).parent
KNOWN = ("spec", "journal", "records", "side_files", "resolved", "checkpoint", "snapshot", "part")


def main() -> int:
    """Fuzz one reader after the other; returns how the program is to exit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(KNOWN)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--here", action="store_true", help="guided by atheris, in this process")
    arguments = parser.parse_args()
    readers = arguments.readers or KNOWN
    if unknown := set(readers) - set(KNOWN):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}")
    if arguments.here:
        guided(readers[0], arguments.seconds)
    has_atheris = importlib.util.find_spec("atheris") is not None
    broken = [reader for reader in readers if not (_apart if has_atheris else unguided)(reader, arguments.seconds)]
    print(f"broken: {', '.join(broken)}; see above" if broken else "nothing found")  # noqa: T201
    return 1 if broken else 0


def guided(reader: str, seconds: int) -> None:
    """Atheris and its libFuzzer, which end the process."""
    import atheris

    with atheris.instrument_imports(include=["sweeper", "trainers"]):
        from test_corpora import read_or_refuse

    def once(data: bytes) -> None:
        try:
            read_or_refuse(reader, data)
        except Exception:
            _keep(reader, data)
            raise

    # New inputs go into a folder of their own, since most of them teach a reader of the corpus nothing.
    found = CORPORA.parents[1] / ".fuzz" / reader
    found.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=60", "-rss_limit_mb=4096", "-verbosity=0"]
    options.append(f"-artifact_prefix={found}/")
    atheris.Setup([sys.argv[0], *options, str(found), str(CORPORA / reader)], once)
    atheris.Fuzz()


def _apart(reader: str, seconds: int) -> bool:
    """Guided fuzzing in a process of its own; whether nothing was found."""
    print(f"{reader}: {seconds} s with atheris", flush=True)  # noqa: T201
    command = [sys.executable, __file__, "--here", "--seconds", str(seconds), reader]
    return subprocess.run(command, check=False).returncode == 0


def unguided(reader: str, seconds: int) -> bool:
    """Hypothesis for as long, from the corpus alone; whether nothing was found."""
    from hypothesis import HealthCheck, Phase, given, settings
    from test_corpora import damaged, read_or_refuse

    print(f"{reader}: {seconds} s with Hypothesis", flush=True)  # noqa: T201
    ends = time.monotonic() + seconds
    sound = True

    @given(data=damaged(reader))
    @settings(
        max_examples=1_000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def some(data: bytes) -> None:
        nonlocal sound
        if time.monotonic() > ends:
            return
        try:
            read_or_refuse(reader, data)
        except Exception:
            sound = False
            _keep(reader, data)
            traceback.print_exc()

    while time.monotonic() < ends:
        some()
    return sound


def _keep(reader: str, data: bytes) -> None:
    """Add an input to the corpus, for the tests to replay once the reader is fixed."""
    path = CORPORA / reader / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    print(f"{reader}: kept as {path}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
