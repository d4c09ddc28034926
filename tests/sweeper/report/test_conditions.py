"""``--where``: what a condition finds, and what a wrong one is told."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.report.conditions import conditions_of, filtered

RATE, CLIP, CASE, ODD = "update_rule.learning_rate", "update_rule.clip_norm", "problem.case", "problem.a<=b"
NAMES = {RATE: "learning_rate", CLIP: "clip_norm", CASE: "problem.case", ODD: "a<=b"}

TRIALS = pd.DataFrame({
    "trial_id": list("abcdef"),
    "case": None,
    RATE: pd.Series([0.1, 10**-0.5, 1, 1, 20.0, 20.0], dtype=object),
    CLIP: pd.Series([None, 0.25, None, 0.5, 1.0, None], dtype=object),
    CASE: pd.Series(["x", "clip and decay", "b=c", "=d", "and", "a [and b"], dtype=object),
    ODD: pd.Series([1, "one", True, None, 2.5, [1, 2]], dtype=object),
    "seed": range(6),
    "started_at": pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03", None, None, None], utc=True),
    "superseded": False,
})


def found(*where: str) -> str:
    trials = TRIALS
    for comparison in conditions_of(where, TRIALS, NAMES):
        trials = filtered(trials, comparison, NAMES, TRIALS)
    return "".join(trials["trial_id"])


@pytest.mark.parametrize(
    ("where", "trials"),
    [
        ("learning_rate=20", "ef"),
        ("update_rule.learning_rate == 20", "ef"),
        ("learning_rate!=20", "abcd"),
        ("learning_rate<1", "ab"),
        ("learning_rate <= 1.0", "abcd"),
        ("learning_rate>1", "ef"),
        ("learning_rate>=1e0", "cdef"),
        # As tables print it, with four digits.
        ("learning_rate<=0.3162", "ab"),
        ("learning_rate<0.3162", "a"),
        ("learning_rate>0.3162", "cdef"),
        ("learning_rate in [0.3162, 20]", "bef"),
        ("learning_rate not in [1,20]", "ab"),
        ("learning_rate NOT  IN [1,20] AND seed=1", "b"),
        # Null has no order, and is not equal to a number.
        ("clip_norm<=0.25", "b"),
        ("clip_norm>0", "bde"),
        ("clip_norm != 0.25", "acdef"),
        ("clip_norm!=none", "bde"),
        ("clip_norm in [none, 1]", "acef"),
        ("clip_norm>0.25 and learning_rate<20 and seed != 5", "d"),
        # Values that look like grammar.
        ("problem.case=clip and decay", "b"),
        ("problem.case = clip and decay and seed=1", "b"),
        ("problem.case=and and learning_rate=20", "e"),
        ("problem.case=b=c", "c"),
        ("problem.case==d", "d"),
        ("problem.case===d", "d"),
        ("problem.case='=d'", "d"),
        ("problem.case=a [and b and seed>0", "f"),
        ("problem.case in [x, 'clip and decay', \"b=c\"]", "abc"),
        ("problem.case not in ['clip and decay'] and seed<2", "a"),
        # Names that look like operators, and values of every type in one column.
        ("a<=b=one", "b"),
        ("a<=b < 3", "ae"),
        ("a<=b in [[1, 2], true]", "cf"),
        ("started_at>=2026-01-02", "bc"),
        ("started_at<'2026-01-02T00:00:00+01:00'", "a"),
        ("superseded=false and seed in [0]", "a"),
    ],
)
def test_a_condition_finds(where: str, trials: str) -> None:
    assert found(where) == trials


def test_conditions_that_are_repeated_must_all_hold() -> None:
    assert found("learning_rate>=1", "clip_norm!=none") == found("learning_rate>=1 and clip_norm!=none") == "de"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("clip_norm", "'clip_norm': at character 10: expected column=value"),
        ("", "'': at character 1: expected column=value"),
        ("<3", "at character 1: expected column=value"),
        ("clip_norm~3", "at character 10: expected column=value, for example learning_rate=20: one of =, !=, <"),
        ("clip_norm<1 and", "at character 16: expected column=value"),
        ("clip_norm<1 and seed", "at character 21: expected column=value"),
        ("seed=1 and learn_rate<2", "at character 12: no column 'learn_rate'; .*did you mean 'learning_rate'?"),
        ("learning_rate<", "at character 15: expected a value behind <"),
        ("learning_rate<x", "at character 15: expected a number behind <"),
        ("clip_norm<none", "at character 11: expected a number behind <; clip_norm != none leaves null out"),
        ("problem.case<3", "at character 1: problem.case has no numbers, which < compares: use =, !=, in"),
        ("superseded<3", "superseded has no numbers"),
        ("started_at<3", "at character 12: expected a time such as 2026-01-31T12:00"),
        ("learning_rate=7", "'learning_rate=7': no trial has this value; learning_rate is 0.1, 0.3162"),
        ("learning_rate=>7", "no trial has this value; .*; the operators are <, <=, > and >="),
        ("learning_rate=1 or learning_rate=20", "no trial has this value; .*; there is no 'or'"),
        ("learning_rate!=7", "no trial has this value"),
        ("learning_rate in [1, 7]", "no trial has the value '7'; learning_rate is"),
        ("learning_rate in 1, 20", "at character 18: expected a list behind 'in', as in in [1, 20]"),
        ("learning_rate in [1, 20", "at character 18: this list is not closed: expected ']'"),
        ("learning_rate in [1,,20]", "at character 21: expected a value; none means null"),
        ("learning_rate in []", "at character 19: expected a value"),
        ("seed in [1] or seed=2", "at character 12: expected 'and' or the end behind the list, found 'or seed=2'"),
        ("seed in", "at character 8: expected a list behind 'in'"),
    ],
)  # fmt: skip
def test_a_wrong_condition_is_told_where_and_what_is_accepted(where: str, message: str) -> None:
    with pytest.raises(ClipsweepError, match="^--where .*" + re.escape(message).replace(r"\.\*", ".*")):
        found(where)


def test_a_limit_that_means_several_values_wants_all_digits() -> None:
    trials = TRIALS.assign(**{RATE: [1.00001, 1.00002, 2.0, 3.0, 4.0, 5.0]})
    (comparison,) = conditions_of(["learning_rate<=1"], trials, NAMES)
    with pytest.raises(ClipsweepError, match=r"means 1\.00001 or 1\.00002; write all digits"):
        filtered(trials, comparison, NAMES, trials)


def test_a_value_of_other_conditions_leaves_nothing_and_is_no_error() -> None:
    assert found("learning_rate=1", "clip_norm=1") == ""


@pytest.mark.parametrize(
    "text", ["[" * 3000, "a=" + "[(" * 3000, "seed in [" + "'" * 999, "and " * 500, "seed=1 and " * 300]
)
def test_nonsense_is_an_error_and_takes_no_time(text: Any) -> None:
    with pytest.raises(ClipsweepError, match="--where"):
        found(text)
