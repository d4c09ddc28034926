"""The tests of ``make test``, in two processes beside each other: those that start a Ray, and those that do not.

A Ray is more waited for than at work, so that two cores are done with both almost as soon as with the first alone. What
the first process says is shown when the second is through. The exit code is 0 where both have passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

PYTEST = [sys.executable, "-m", "pytest", "-q", "--cov", "--cov-report="]
WITH_RAY = ["-m", "ray and not slow", "tests"]
WITHOUT = ["-m", "not ray and not slow"]


def start(arguments: list[str], coverage: Path, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """One of the two processes, which leaves its coverage in a file of its own."""
    environment = {**os.environ, "COVERAGE_FILE": str(coverage)}
    return subprocess.Popen([*PYTEST, *arguments], env=environment, stdout=output, stderr=output)


def show_until_end(process: subprocess.Popen[bytes], output: Path) -> None:
    """Show what a process has said, and goes on to say."""
    with output.open("rb") as said:
        while True:
            ended = process.poll() is not None
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
            with_ray = start(WITH_RAY, folder / "ray", output)
            without = start(WITHOUT, folder / "rest")
        try:
            without.wait()
            print("\nThe tests that start a Ray:", flush=True)  # noqa: T201
            show_until_end(with_ray, folder / "said")
        except KeyboardInterrupt:
            # They have got it, too, and clean up.
            without.wait()
            show_until_end(with_ray, folder / "said")
            return 130
        if without.returncode or with_ray.returncode:
            which = [word for word, process in (("without", without), ("with", with_ray)) if process.returncode]
            print(f"\nThere are failures, see above, among the tests {' and '.join(which)} a Ray")  # noqa: T201
            return 1
        return report_coverage(folder / "ray", folder / "rest")


if __name__ == "__main__":
    sys.exit(main())
