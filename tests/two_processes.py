"""The tests of ``make test``, in two lanes beside each other: those that start a Ray, and those that do not.

A Ray is more waited for than at work, so that its tests leave most of a core to others. They are done first, too, and
their lane goes on with some that start processes of their own. What it says is shown when the other lane is through.
The exit code is 0 where all have passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

PYTEST = [sys.executable, "-m", "pytest", "-q", "--cov", "--cov-report="]
INTERRUPTED = 2
"""What pytest returns after Ctrl-C."""

NO_RAY = ["-m", "not ray and not slow"]
AFTER_RAY = ["tests/trainers/clip_audit", "tests/sweeper/test_audit_clip.py", "tests/estimators/monitor"]
WITH_RAY = [["-m", "ray and not slow", "tests"], [*NO_RAY, *AFTER_RAY]]
WITHOUT = [[*NO_RAY, *(f"--ignore={path}" for path in AFTER_RAY)]]


class Lane:
    """Calls of pytest, one after the other.

    Args:
        calls: The arguments of each.
        folder: Where each leaves its coverage, in a file of its own.
        name: What these files are called.
        output: Where they say what they have to say; None for here.
    """

    def __init__(self, calls: Sequence[list[str]], folder: Path, name: str, output: IO[bytes] | None = None) -> None:
        self.coverage = [folder / f"{name}{at}" for at in range(len(calls))]
        self.failed = False
        self._calls, self._output = calls, output
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for arguments, coverage in zip(self._calls, self.coverage, strict=True):
            environment = {**os.environ, "COVERAGE_FILE": str(coverage)}
            output = self._output
            process = subprocess.run([*PYTEST, *arguments], env=environment, stdout=output, stderr=output, check=False)
            self.failed = self.failed or process.returncode != 0
            if process.returncode == INTERRUPTED:
                return

    @property
    def ended(self) -> bool:
        """Whether all calls are through."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait until they are."""
        self._thread.join()


def show_until_end(lane: Lane, output: Path) -> None:
    """Show what a lane has said, and goes on to say."""
    with output.open("rb") as said:
        while True:
            ended = lane.ended
            sys.stdout.buffer.write(said.read())
            sys.stdout.flush()
            if ended:
                return
            time.sleep(0.2)


def report_coverage(*files: Path) -> int:
    """Combine what the processes have covered, and show it; the exit code."""
    for words in (["combine", "--quiet", *map(str, files)], ["report"]):
        if code := subprocess.run([sys.executable, "-m", "coverage", *words], check=False).returncode:
            return code
    return 0


def main() -> int:
    """Run both, and say how it went."""
    with tempfile.TemporaryDirectory(prefix="clipsweep-tests-") as name:
        folder = Path(name)
        with (folder / "said").open("wb") as output:
            with_ray = Lane(WITH_RAY, folder, "ray", output)
            without = Lane(WITHOUT, folder, "rest")
            try:
                without.wait()
                print("\nThe tests that start a Ray, and those after them:", flush=True)  # noqa: T201
                show_until_end(with_ray, folder / "said")
            except KeyboardInterrupt:
                # They have got it, too, and clean up.
                without.wait()
                show_until_end(with_ray, folder / "said")
                return 130
        if without.failed or with_ray.failed:
            which = [word for word, lane in (("without", without), ("with", with_ray)) if lane.failed]
            print(f"\nThere are failures, see above, among the tests {' and '.join(which)} a Ray")  # noqa: T201
            return 1
        return report_coverage(*with_ray.coverage, *without.coverage)


if __name__ == "__main__":
    sys.exit(main())
