"""What a process printed before it ended is read from the files that it printed to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sweeper.cluster.last_words import last_words

CHILD = """
import json, os, sys
from sweeper.cluster.last_words import begin, outputs
print("before", flush=True)
begin("trial a, attempt 1")
print("of a", flush=True)
begin("trial b, attempt 2")
print("one", flush=True)
print("two", flush=True)
sys.stderr.write("no such file\\n")
open(sys.argv[1], "w").write(json.dumps(outputs()))
os._exit(3)
"""


def test_what_a_process_printed_since_its_last_beginning_outlives_its_hard_exit(tmp_path: Path) -> None:
    out, err, told = tmp_path / "worker.out", tmp_path / "worker.err", tmp_path / "told"
    with out.open("w") as one, err.open("w") as other:
        ended = subprocess.run([sys.executable, "-c", CHILD, str(told)], stdout=one, stderr=other, check=False)
    assert ended.returncode == 3
    assert told.read_text() == f'["{out}", "{err}"]'
    assert last_words([str(out), str(err)]) == "one\ntwo\nno such file"
    assert last_words([str(err)]) == "no such file"


def test_a_trial_that_prints_nothing_has_no_words_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "worker.out"
    file.write_text("--- clipsweep: trial a, attempt 1\nof a\n--- clipsweep: trial b, attempt 1\n")
    assert last_words([str(file)]) == ""


def test_lines_of_rays_own_and_the_frames_of_a_crash_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "worker.err"
    file.write_text(
        ":job_id:01000000\n:actor_name:TrainerActor\nfree(): invalid pointer\n"
        "*** SIGABRT received at time=1795842750 on cpu 1 ***\nPC: @     0x7f0c2f926f36  (unknown)  raise\n"
        "    @     0x7f0c2f85a050  (unknown)  (unknown)\n"
        "[2026-11-28 05:12:30,466 E 19894 19894] logging.cc:474: *** SIGABRT received at time=1795842750 ***\n"
    )
    assert last_words([str(file)]) == "free(): invalid pointer\n*** SIGABRT received at time=1795842750 on cpu 1 ***"


def test_of_a_long_output_the_end_is_read_and_of_odd_bytes_something_that_can_be_shown(tmp_path: Path) -> None:
    file = tmp_path / "worker.out"
    file.write_bytes(b"--- clipsweep: trial a, attempt 1\n" + b"x" * 99 + b"\n" * 2_000_000 + b"caf\xe9\nend\n")
    words = last_words([str(file)])
    assert words.endswith("caf\N{REPLACEMENT CHARACTER}\nend")
    file.write_bytes(b"y" * 2_000_000)
    assert len(last_words([str(file)])) == 4000


def test_a_file_that_is_not_here_says_nothing(tmp_path: Path) -> None:
    assert last_words([str(tmp_path / "gone")]) == ""


def test_streams_that_are_no_files_are_not_named_and_can_be_begun_on() -> None:
    code = "from sweeper.cluster.last_words import begin, outputs\nassert outputs() == ()\nbegin('x')\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "--- clipsweep: x\n"), ended.stderr


def test_a_begin_on_closed_streams_is_no_error() -> None:
    code = "import os\nfrom sweeper.cluster.last_words import begin\nos.close(1); os.close(2)\nbegin('x')\nos._exit(5)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 5
