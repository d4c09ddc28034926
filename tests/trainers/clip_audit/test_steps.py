"""Real steps on one rank: correct ones of any kind pass, and what else they do is seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.clip_audit.adam import adam_reference
from trainers.clip_audit.answers import Answer
from trainers.clip_audit.audit import audit
from trainers.clip_audit.cases import Case, Outcome, gradients_of
from trainers.clip_audit.layout import SIZE, TENSORS, LinearLoss, flattened
from trainers.clip_audit.play import play, require_signature, watch_clips
from trainers.errors import TrainerError

FOLDER = Path(__file__).parent
clip_grad_norm_ = torch.nn.utils.clip_grad_norm_

Step = Callable[..., Any]


def answers_of(step: Step, prepare: Step | None = None, *, max_norm: float | None = None) -> dict[str, Answer]:
    def here(case: Case) -> list[Outcome]:
        return [play(case, step, prepare, rank=0, ranks=1, folder=FOLDER, words=repr)]

    return {answer.question: answer for answer in audit(here, ranks=1, max_norm=max_norm)}


def plain(model: Any, optimizer: Any, micro_batches: Any) -> None:
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    log_threshold=st.floats(-4, 4),
    accumulates=st.booleans(),
    scales=st.booleans(),
    raises=st.booleans(),
    zeroes_first=st.booleans(),
    to_none=st.booleans(),
    by_hand=st.booleans(),
)
def test_no_correct_step_is_found_wrong_and_its_threshold_is_found(
    log_threshold: float,
    accumulates: bool,
    scales: bool,
    raises: bool,
    zeroes_first: bool,
    to_none: bool,
    by_hand: bool,
) -> None:
    threshold = 10.0**log_threshold
    scaler = torch.amp.GradScaler("cpu", enabled=scales)

    def clip(parameters: list[torch.nn.Parameter]) -> None:
        if not by_hand:
            # An unscaled inf is the scaler's to skip.
            clip_grad_norm_(parameters, threshold, error_if_nonfinite=raises and not scales)
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.mul_(min(1.0, threshold / float(norm)) if norm > 0 else 1.0)

    def update(model: Any, optimizer: Any, micro_batches: Any) -> None:
        if zeroes_first:
            optimizer.zero_grad(set_to_none=to_none)
        for batch in micro_batches:
            scaler.scale(model(batch) / len(micro_batches)).backward()
        scaler.unscale_(optimizer)
        clip(list(model.parameters()))
        scaler.step(optimizer)
        scaler.update()
        if not zeroes_first:
            optimizer.zero_grad(set_to_none=to_none)

    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        for batches in [micro_batches] if accumulates else [[batch] for batch in micro_batches]:
            update(model, optimizer, batches)

    found = answers_of(step, max_norm=threshold)
    assert [answer for answer in found.values() if answer.verdict in {"finding", "cannot tell"}] == []
    assert found["what is clipped"].key == "global norm"
    assert found["threshold"].key == "as meant"
    assert found["accumulation"].key == ("mean" if accumulates else "one step each")


@settings(max_examples=8, deadline=None, derandomize=True)
@given(factor=st.floats(1.01, 50) | st.floats(0.02, 0.99))
def test_a_threshold_other_than_the_one_that_is_meant_is_a_finding_with_both_numbers(factor: float) -> None:
    found = answers_of(plain, max_norm=factor)["threshold"]
    assert (found.verdict, found.key) == ("finding", "another")
    assert found.evidence.startswith(f"{factor:.6g} meant, 1 acts")


def test_a_learning_rate_that_the_step_sets_is_told_and_divided_out() -> None:
    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.125
        plain(model, optimizer, micro_batches)

    found = answers_of(step)
    assert (found["runs"].verdict, found["runs"].key) == ("note", "learning rate changed")
    assert "0.125" in found["runs"].found
    assert found["threshold"].found.startswith("1,")


def without_backward(model: Any, optimizer: Any, micro_batches: Any) -> None:
    optimizer.step()


def without_update(model: Any, optimizer: Any, micro_batches: Any) -> None:
    model(micro_batches[0]).backward()


def zeroed_too_late(model: Any, optimizer: Any, micro_batches: Any) -> None:
    model(micro_batches[0]).backward()
    optimizer.zero_grad()
    optimizer.step()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (without_backward, "no loss goes backward"),
        (without_update, "never steps"),
        (zeroed_too_late, "by nothing"),
    ],
)
def test_a_step_that_moves_nothing_is_told_why(body: Step, text: str) -> None:
    (answer,) = answers_of(body).values()
    assert (answer.question, answer.verdict, answer.key) == ("runs", "finding", "moves nothing")
    assert text in answer.found


def test_a_step_that_raises_is_told_once_with_its_line() -> None:
    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        raise KeyError("labels")

    (answer,) = answers_of(step).values()
    assert (answer.verdict, answer.key) == ("finding", "raises")
    assert "KeyError('labels')" in answer.found
    assert answer.spot is not None
    assert (answer.spot.file, answer.spot.function, answer.spot.code) == (__file__, "step", 'raise KeyError("labels")')


def test_an_optimizer_of_its_own_is_no_gradient_unless_it_is_plain_descent() -> None:
    def adam(model: Any, make_optimizer: Any) -> Any:
        return model, torch.optim.AdamW(model.parameters())

    (answer,) = answers_of(plain, adam).values()
    assert (answer.verdict, answer.key) == ("cannot tell", "own optimizer")

    def momentum(model: Any, make_optimizer: Any) -> Any:
        return model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)

    found = answers_of(plain, momentum)
    assert found["what is clipped"].key == "global norm"
    assert found["threshold"].found.startswith("1,")
    assert (found["second step"].key, found["Adam, all"].key) == ("not asked", "not asked")
    assert not any(answer.verdict in {"finding", "cannot tell"} for answer in found.values())


def skipping(model: Any, optimizer: Any, micro_batches: Any) -> None:
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    if clip_grad_norm_(model.parameters(), 1.0).isfinite():
        optimizer.step()


def zeroing(model: Any, optimizer: Any, micro_batches: Any) -> None:
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def keeping(model: Any, optimizer: Any, micro_batches: Any) -> None:
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    if clip_grad_norm_(model.parameters(), 1.0).isfinite():
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("step", "keys"),
    [
        (plain, ["poisons some", "poisons all"]),
        (skipping, ["skipped", "skipped"]),
        (zeroing, ["replaced", "replaced"]),
        (keeping, ["never again", "never again"]),
    ],
)
def test_what_inf_and_nan_do_is_told(step: Step, keys: list[str]) -> None:
    found = answers_of(step)
    assert [found[name].key for name in ("inf", "NaN")] == keys


def test_what_survives_adam_is_measured_against_adam_without_a_clip() -> None:
    found = answers_of(plain)
    assert found["Adam, all"].key == "nothing survives"
    norms = [100.0 if at == 5 else 0.5 for at in range(10)]
    steps = [
        gradients_of(20 + at, ranks=1, micro_batches=1, norm=norm, spread=1.5)[0, 0] for at, norm in enumerate(norms)
    ]
    clipped = [one * min(1.0, 1.0 / float(np.linalg.norm(one))) for one in steps]
    moved = [float(np.linalg.norm(adam_reference(one)[5])) for one in (clipped, steps)]
    ratio = float(found["Adam, one"].evidence.split()[4])
    assert ratio == pytest.approx(moved[0] / moved[1], abs=2e-3)


def test_a_frozen_layer_that_the_step_cannot_have_is_a_note_with_its_line() -> None:
    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        optimizer.zero_grad()
        for batch in micro_batches:
            (model(batch) / len(micro_batches)).backward()
        norm = math.sqrt(sum(float(parameter.grad.norm()) ** 2 for parameter in model.parameters()))
        for parameter in model.parameters():
            parameter.grad.mul_(min(1.0, 1.0 / norm))
        optimizer.step()

    answer = answers_of(step)["frozen layer"]
    assert (answer.verdict, answer.key) == ("note", "raises")
    assert answer.spot is not None
    assert answer.spot.code.startswith("norm = math.sqrt")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (3, "is int 3, not a function: write train_step"),
        (lambda model, optimizer: None, "cannot be called as train_step.model, optimizer, micro_batches.: too many"),
        (lambda model, optimizer, batches, loader: None, "missing a required argument: 'loader'"),
    ],
)
def test_what_cannot_be_called_with_the_three_is_refused(function: Any, text: str) -> None:
    with pytest.raises(TrainerError, match=text):
        require_signature(function, "train_step", ("model", "optimizer", "micro_batches"))


def test_a_batch_is_the_gradient_of_its_loss_whatever_the_weights() -> None:
    model = LinearLoss()
    batch = torch.arange(float(SIZE))
    for value in (0.0, 3.0):
        model.zero_grad()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        model(batch).backward()
        assert (flattened(model, lambda parameter: parameter.grad) == batch.numpy()).all()
    assert [(name, tuple(p.shape)) for name, p in model.named_parameters()] == [
        (one.name, one.shape) for one in TENSORS
    ]
    assert min(place.size for place in TENSORS) >= 2 * 3


# Steps that are right, or of which little can be said: nothing that is said of them is untrue


def grouped(model: Any, make_optimizer: Any) -> Any:
    named = list(model.named_parameters())
    return model, make_optimizer([
        {"params": [one for name, one in named if name.endswith("bias") == biases], "lr": rate}
        for biases, rate in ((False, 1e-3), (True, 1e-2))
    ])  # fmt: skip


def test_groups_of_different_learning_rates_are_each_divided_by_their_own() -> None:
    found = answers_of(plain, grouped, max_norm=1.0)
    assert "0.001, 0.01" in found["runs"].found
    assert [found[name].key for name in ("accumulation", "what is clipped", "threshold")] == [
        "mean", "global norm", "as meant",
    ]  # fmt: skip


def by_hand(model: Any, optimizer: Any, micro_batches: Any) -> None:
    model.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-0.1)


def averaged_with_earlier_weights(model: Any, optimizer: Any, micro_batches: Any) -> None:
    earlier = [parameter.detach().clone() for parameter in model.parameters()]
    plain(model, optimizer, micro_batches)
    with torch.no_grad():
        for parameter, old in zip(model.parameters(), earlier, strict=True):
            parameter.lerp_(old, 0.9)


@pytest.mark.parametrize("step", [by_hand, averaged_with_earlier_weights])
def test_an_update_that_is_scaled_behind_the_clip_is_not_taken_for_a_loss_scale(step: Step) -> None:
    found = answers_of(step, max_norm=1.0)
    assert [answer for answer in found.values() if answer.verdict in {"finding", "cannot tell"}] == []
    assert (found["threshold"].verdict, found["threshold"].key) == ("note", "scaled behind the clip")
    assert found["threshold"].found.startswith("1, --max-norm; ")
    assert "scaled by 0.1 behind" in found["threshold"].found
    assert found["second step"].key == "fresh"


def test_a_tensor_whose_gradient_is_scaled_by_itself_is_named() -> None:
    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        optimizer.zero_grad()
        for batch in micro_batches:
            (model(batch) / len(micro_batches)).backward()
        model.encoder.weight.grad *= 0.125
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    found = answers_of(step)
    assert (found["accumulation"].verdict, found["accumulation"].key) == ("note", "mean, tensors scaled")
    assert found["accumulation"].found.endswith("encoder.weight 0.125")
    assert found["what is clipped"].key == "global norm"


def test_large_gradients_that_are_skipped_are_not_called_clipped() -> None:
    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        optimizer.zero_grad()
        for batch in micro_batches:
            (model(batch) / len(micro_batches)).backward()
        if clip_grad_norm_(model.parameters(), math.inf) < 10:
            optimizer.step()

    found = answers_of(step)
    assert (found["what is clipped"].verdict, found["what is clipped"].key) == ("note", "skipped")
    assert "Adam, all" not in found


@pytest.fixture
def calls_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.nn.utils, torch.nn.utils.clip_grad):
        for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name))
    watch_clips(FOLDER)


@pytest.mark.usefixtures("calls_are_noted")
def test_a_threshold_that_moves_is_told_with_its_range() -> None:
    calls = iter(range(1, 10_000))

    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        optimizer.zero_grad()
        for batch in micro_batches:
            (model(batch) / len(micro_batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0 * 0.99 ** next(calls))
        optimizer.step()

    found = answers_of(step)["what is clipped"]
    assert found.verdict == "cannot tell"
    assert "its threshold is another one in every step, from 3." in found.found
    assert "stays the same" in found.fix


def test_a_threshold_far_above_the_smallest_gradients_leaves_nothing_called_fresh() -> None:
    average: list[float] = []

    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        optimizer.zero_grad()
        for batch in micro_batches:
            (model(batch) / len(micro_batches)).backward()
        norm = float(clip_grad_norm_(model.parameters(), math.inf))
        average.append(norm if not average else 0.9 * average[-1] + 0.1 * norm)
        clip_grad_norm_(model.parameters(), 2 * average[-1])
        optimizer.step()

    found = answers_of(step)
    assert {found[name].verdict for name in ("accumulation", "second step")} == {"note"}
    assert found["second step"].key == "not asked"


@pytest.mark.usefixtures("calls_are_noted")
@pytest.mark.parametrize("second", ["value", "order"])
def test_two_clips_of_different_kinds_are_not_said_to_be_as_one(second: str) -> None:
    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        optimizer.zero_grad()
        for batch in micro_batches:
            (model(batch) / len(micro_batches)).backward()
        if second == "value":
            torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)
        else:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5, norm_type=math.inf)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    assert answers_of(step)["how often"].key == "several kinds"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_default_dtype_that_the_users_module_sets_changes_nothing(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        found = answers_of(plain)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [answer for answer in found.values() if answer.verdict in {"finding", "cannot tell"}] == []
    assert found["what is clipped"].key == "global norm"


def test_weights_of_another_precision_are_audited_where_that_is_enough() -> None:
    def prepared(dtype: torch.dtype) -> Step:
        def prepare(model: Any, make_optimizer: Any) -> Any:
            model = model.to(dtype)
            return model, make_optimizer(model.parameters())

        return prepare

    assert answers_of(plain, prepared(torch.float64))["what is clipped"].key == "global norm"
    assert answers_of(plain, prepared(torch.bfloat16))["runs"].key == "low precision"


@pytest.mark.parametrize("returned", [lambda model, optimizer: (optimizer, model), lambda model, optimizer: (1, 2)])
def test_what_prepare_returns_must_be_a_model_and_an_optimizer(returned: Step) -> None:
    def prepare(model: Any, make_optimizer: Any) -> Any:
        return returned(model, make_optimizer(model.parameters()))

    with pytest.raises(TrainerError, match="prepare must return \\(model, optimizer\\), in this order, not"):
        answers_of(plain, prepare)
