"""Every way of clipping that the audit knows is named for what it is, and told from every other one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from trainers.clip_audit.adam import adam_reference
from trainers.clip_audit.answers import Answer
from trainers.clip_audit.audit import audit
from trainers.clip_audit.cases import Case, Outcome, Seen
from trainers.clip_audit.clips import PARTITIONS, STAGES, WHERE, Clip, Way, single_ways, twofold_ways
from trainers.clip_audit.layout import SIZE, TENSORS

WAYS = {
    (ranks, way.where, way.clips[0].name): way
    for ranks in (1, 2)
    for way in single_ways(ranks, PARTITIONS)
    if way.clips[0].order == 2
    and way.clips[0].epsilon == 0
    # On two ranks, what cannot be done on one.
    and (ranks == 1 or way.where == "end" or "local" in way.where or "then" in way.where)
}
"""Where something is clipped, and of what the norm is taken."""


def simulated(used_by: Callable[[np.ndarray], np.ndarray], ranks: int) -> Callable[[Case], list[Outcome]]:
    """A step that moves weights by what a function makes of the given gradients."""

    def play(case: Case) -> list[Outcome]:
        used = []
        for given in case.steps:
            with np.errstate(invalid="ignore", divide="ignore"):
                one = used_by(given).astype(np.float32).astype(np.float64)
            if case.frozen:
                one[TENSORS[-1].slice] = 0
            used.append(one)
        moved = adam_reference(used) if case.optimizer == "adam" else [-one for one in used]
        seen = [
            Seen(moved=one, held=np.ones(SIZE, dtype=bool), factors=[1 / len(given[0])] * len(given[0]), rates=[[1.0]])
            for one, given in zip(moved, case.steps, strict=True)
        ]
        kind = "Adam" if case.optimizer == "adam" else "SGD"
        return [Outcome(seen=seen, facts={"kind": kind, "epsilon": 2.0**-23})] * ranks

    return play


def audited(way: Way, ranks: int, threshold: float) -> dict[str, Answer]:
    def used_by(given: np.ndarray) -> np.ndarray:
        return way(given / (ranks * given.shape[1]), threshold)

    return {answer.question: answer for answer in audit(simulated(used_by, ranks), ranks=ranks)}


def key_of(where: str, name: str) -> str:
    what = {"all": "global norm", "value": "value"}.get(name, f"norm per {name}")
    return what if where == "end" else f"{what}, {where}"


@pytest.mark.parametrize(("ranks", "where", "name"), WAYS)
def test_a_way_is_named_and_so_is_its_threshold(ranks: int, where: str, name: str) -> None:
    found = audited(WAYS[ranks, where, name], ranks, 0.37)
    clipped = found["what is clipped"]
    assert clipped.key == key_of(where, name)
    meant = where == "end" and name in {"tensor", "group", "module", "value"}
    assert clipped.verdict == ("ok" if (where, name) == ("end", "all") else "note" if meant else "finding")
    acts = 0.37 * (ranks if where.endswith("local") else 1)
    assert float(found["threshold"].found.split(",")[0]) == pytest.approx(acts, rel=1e-4)


@pytest.mark.parametrize("order", [1.0, np.inf])
@pytest.mark.parametrize("name", ["all", "tensor"])
def test_norms_of_other_orders_are_told_apart(name: str, order: float) -> None:
    way = Way(where="end", clips=(Clip(partition=PARTITIONS[name], order=order, name=name),))
    assert audited(way, 1, 5.0)["what is clipped"].key == f"{key_of('end', name)} of order {order:g}"


@pytest.mark.parametrize("first", STAGES)
def test_two_clips_at_one_threshold_are_two(first: str) -> None:
    whole = Way(where="end", clips=(Clip(partition=PARTITIONS["all"]),))
    (way,) = (way for way in twofold_ways([whole]) if way.clips[0].name == first)
    found = audited(way, 1, 2.0)["what is clipped"]
    assert (found.verdict, found.key) == ("finding", f"{key_of('end', first)} then global norm")


@pytest.mark.parametrize("name", ["all", "tensor"])
def test_normalising_is_no_clipping(name: str) -> None:
    way = Way(where="end", clips=(Clip(kind="normalise", partition=PARTITIONS[name], name=name),))
    found = audited(way, 1, 1.0)["what is clipped"]
    assert (found.verdict, found.key) == ("finding", f"normalised, {key_of('end', name)}")
    assert "min(1" in found.fix


@pytest.mark.parametrize("counted", [False, True])
def test_tensors_that_are_left_out_are_named_whether_or_not_the_norm_counts_them(counted: bool) -> None:
    partition = np.where(PARTITIONS["group"] == 1, -1, 0)
    clip = Clip(partition=partition, counted=PARTITIONS["all"] if counted else None)
    found = audited(Way(where="end", clips=(clip,)), 1, 1.0)
    answer = found["which weights"]
    assert (answer.verdict, answer.key) == ("finding", "not clipped: encoder.bias, decoder.inner.bias")
    assert ("though the norm counts" in answer.found) == counted
    assert found["what is clipped"].key == "global norm"


@pytest.mark.parametrize("power", [0.5, 0.9])
def test_what_no_known_way_explains_is_not_guessed(power: float) -> None:
    def softened(given: np.ndarray) -> np.ndarray:
        gradient = given.mean((0, 1))
        norm = float(np.linalg.norm(gradient))
        return gradient if norm < 1 else gradient / norm**power

    answers = {answer.question: answer for answer in audit(simulated(softened, 1), ranks=1)}
    found = answers["what is clipped"]
    assert (found.verdict, found.key) == ("cannot tell", "unknown")
    assert all(place.name in found.evidence for place in TENSORS)
    assert "threshold" not in answers


def test_a_clip_leaves_what_is_below_it_and_cuts_what_is_above_to_the_threshold() -> None:
    gradient = np.random.default_rng(0).normal(size=SIZE)
    clip = Clip(partition=PARTITIONS["all"])
    norm = float(np.linalg.norm(gradient))
    assert (clip(gradient, 2 * norm) == gradient).all()
    assert np.linalg.norm(clip(gradient, norm / 2)) == pytest.approx(norm / 2)
    each = Clip(partition=PARTITIONS["tensor"])(gradient, 0.1)
    assert [np.linalg.norm(each[place.slice]) for place in TENSORS] == pytest.approx([0.1] * len(TENSORS))


def test_a_place_that_is_not_known_is_refused() -> None:
    way = replace(WAYS[1, "end", "all"], where="nowhere")
    with pytest.raises(ValueError, match="unknown place 'nowhere'; known: end, local"):
        way(np.ones((1, 1, SIZE)), 1.0)
    assert "nowhere" not in WHERE
