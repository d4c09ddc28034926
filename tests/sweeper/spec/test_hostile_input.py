"""Whatever stands in a file: an error of ours with a way out, or a sound result; never a bare traceback."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeper.errors import IntegrityError, SpecError
from sweeper.spec import loads_spec
from sweeper.store.journal import Journal, _seal, read_journal, replay
from sweeper.store.records import Retried

GOOD = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 5}\n"

words = st.sampled_from([
    *"{}[]:,&*!|>-#?%@`'\"\n \t",
    "name", "problem", "use", "deep_linear", "analytic", "update_rule", "learning_rate", "train", "steps", "sweep",
    "grid", "zip", "cases", "exclude", "seeds", "measure", "every", "estimators", "resources", "cluster", "address",
    "&a", "*a", "<<: *a", "? ", "- ", ": ", "null", "true", "1e999", "-0", ".nan", "0x1f", "1e3", "~", "!!int", "---",
    "update_rule.learning_rate", "2", "\x1b[31m", "\u202e", "[[1]]",
])  # fmt: skip


@given(pieces=st.lists(words | st.text(max_size=4), max_size=40))
@settings(max_examples=300, deadline=None)
@example(pieces=["a: &a [*a]"])
@example(pieces=["{problem: {use: [", "]}}"])
def test_any_text_is_a_spec_or_an_error_that_names_its_place(pieces: list[str]) -> None:
    for text in ("".join(pieces), GOOD + "".join(pieces)):
        try:
            sweep = loads_spec(text, folder=Path())
        except SpecError as error:
            shown = str(error)
            assert shown.startswith("<spec>")
            # A terminal is told nothing but text by a file that somebody else wrote.
            assert not any(ord(character) < 32 and character != "\n" for character in shown)
        else:
            assert sweep.cells


SEALED = [
    {"n": 0, "type": "opened", "format": 1, "epoch": 1, "environment": {}},
    {"n": 1, "type": "planned", "measurement": "m", "measure": None, "trials": [{"trial_id": "a", "steps": 20}]},
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=6,
)
fields = st.dictionaries(
    st.sampled_from(["parts", "segments", "trial", "trials", "epoch", "environment", "snapshots", "measurement"]),
    json_values | st.just("a") | st.just(["a"]),
)
kinds = st.sampled_from(["opened", "planned", "committed", "remeasuring", "remeasured", "failed", "retried", "damaged"])


@given(data=st.binary(max_size=200), sound_lines=st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_a_journal_are_a_torn_tail_or_an_integrity_error(data: bytes, sound_lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        sound = b"".join(_seal(record) for record in SEALED[:sound_lines])
        path.write_bytes(sound + data)
        records, whole = read_journal(path)
        assert records == [{**record} for record in SEALED[:sound_lines]]
        assert whole == len(sound)


@given(kind=kinds | st.text(max_size=3), more=fields)
@settings(max_examples=300, deadline=None)
def test_a_sealed_record_of_any_content_is_understood_or_an_integrity_error(kind: str, more: dict[str, object]) -> None:
    with contextlib.suppress(IntegrityError):
        replay([*SEALED, {"n": 2, "type": kind, **more}])


def test_lines_that_are_sealed_but_no_record_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, 0).append(Retried(trials=("a",)))
    whole = path.stat().st_size
    import xxhash

    body = b"[1"
    path.write_bytes(path.read_bytes() + body + b',"xxh3":"' + xxhash.xxh3_64_hexdigest(body).encode() + b'"}\n')
    assert read_journal(path)[1] == whole


def test_specs_that_would_grow_without_bounds_are_refused_before_they_grow() -> None:
    script = Path(__file__).with_name("hostile_specs.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 30
    unlike = {name: outcome["text"] for name, outcome in outcomes.items() if not outcome["as_expected"]}
    assert unlike == {}
    # A second or two; what is not refused takes hours. The bound leaves room for slow machines.
    slow = {name: outcome["cpu_s"] for name, outcome in outcomes.items() if outcome["cpu_s"] > 30}
    assert slow == {}
    # Of the whole process, Python and its modules included.
    large = {name: outcome["peak_mb"] for name, outcome in outcomes.items() if outcome["peak_mb"] > 200}
    assert large == {}
