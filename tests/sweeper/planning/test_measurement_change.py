"""A changed measure section is shown as a diff, by plan and by run, with what can still be measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweeper.errors import RunDirectoryError
from sweeper.planning.preview import plan_document, plan_text
from sweeper.protocol.consent import Consent
from sweeper.run import run_sweep
from sweeper.spec import loads_spec

SPEC = """
name: changed
problem: {use: deep_linear, layers: 2, width: 3, samples: 8, batch_size: 4}
update_rule: {learning_rate: 0.05}
train: {steps: 6}
measure: {every: 2, data_fraction: 1, KEEPestimators: [{use: directional_smoothness, delta: 0.5}]}
sweep: {seeds: 2}
"""


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("keep: true, ", "Snapshots of the 2 trials already done were kept: `clipsweep estimate "),
        ("", "The 2 trials already done cannot be measured again, since no snapshots were kept; `measure: {keep: true"),
    ],
)
def test_run_says_what_changed_and_whether_what_is_done_can_be_measured_again(
    inline_run: Callable[..., Any], new_listener: Callable[[], Any], keep: str, said: str
) -> None:
    text = SPEC.replace("KEEP", keep)
    path = inline_run(text)().run_dir.path
    changed = loads_spec(text.replace("every: 2", "every: 3"), folder=path.parent)
    with pytest.raises(RunDirectoryError) as refused:
        run_sweep(changed, out=path, listener=new_listener())
    words = str(refused.value)
    assert "  -measure.every: 2\n  +measure.every: 3\n" in words
    assert said in words
    assert "2 trials with rows measured under the earlier one" in words
    assert "Continue with --new-measurement" in words
    listener = new_listener()
    run_sweep(changed, out=path, listener=listener, consent=Consent(new_measurement=True))
    document = plan_document(changed, path)
    assert document["measurement_change"] is None, "it is known now"


def test_plan_sees_the_change_and_the_option_that_a_run_would_ask_for(inline_run: Callable[..., Any]) -> None:
    text = SPEC.replace("KEEP", "")
    path = inline_run(text)().run_dir.path
    same = plan_document(loads_spec(text.replace("every: 2,", "every: 2, keep: true,"), folder=path.parent), path)
    assert "--new-measurement" in same["asks_for"], "these tests name their measurement otherwise"
    document = plan_document(loads_spec(text.replace("delta: 0.5", "delta: 0.25"), folder=path.parent), path)
    assert document["asks_for"] == ["--new-measurement"]
    assert "what is measured has changed since the run was begun:" in plan_text(document)
    assert '"delta":0.25' in document["measurement_change"]


def test_another_f_under_the_same_section_is_not_mixed_with_the_earlier_one_without_consent(
    inline_run: Callable[..., Any],
) -> None:
    # These tests name their measurement otherwise than a run of this release would, as an earlier release does.
    text = SPEC.replace("KEEP", "keep: true, ")
    path = inline_run(text)().run_dir.path
    sweep = loads_spec(text, folder=path.parent)
    with pytest.raises(RunDirectoryError, match="the section is the same, but f is not: another release"):
        run_sweep(sweep, out=path)
    assert run_sweep(sweep, out=path, consent=Consent(new_measurement=True)).exit_code == 0
    assert plan_document(sweep, path)["measurement_change"] is None
