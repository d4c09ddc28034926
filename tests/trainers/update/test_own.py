"""Schedules and transforms of one's own: what they must return, and that a rule follows them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from trainers.errors import TrainerError
from trainers.problems import build_problem
from trainers.training.stepper import Stepper
from trainers.update.own import own_schedule, own_transform
from trainers.update.rule import UpdateRule

MODULE = """
import torch

def halved(*, after):
    return lambda step, total_steps: 1 if step < after else 0.5

def factor(*, value):
    return lambda step, total_steps: value

def no_function():
    return 0.5

def clip(*, threshold):
    def transform(direction):
        scale = (threshold / direction.norm).clamp(max=1.0)
        direction.vector.mul_(scale)
        return scale
    return transform

def returns(*, what):
    values = {"number": 1, "text": "one", "vector": torch.ones(2), "none": None, "whole": torch.tensor(1)}
    return lambda direction: values[what]

def draws():
    value = float(torch.rand(()))
    return lambda step, total_steps: value
"""


@pytest.fixture
def search(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[list[str], str]:
    """A folder with the module, under a name of this test's own, since a process imports a module once."""
    name = f"own_rule_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return [str(tmp_path)], name


def test_a_rule_follows_a_schedule_of_ones_own(search: tuple[list[str], str]) -> None:
    folders, module = search
    schedule = own_schedule({"use": f"{module}:halved", "after": 3}, search=folders)
    rule = UpdateRule(learning_rate=2.0, schedule=schedule)
    assert [rule.learning_rate_at(step, 5) for step in range(5)] == [2.0, 2.0, 2.0, 1.0, 1.0]


def test_a_transform_of_ones_own_does_what_the_registered_one_does(search: tuple[list[str], str]) -> None:
    folders, module = search
    own = own_transform({"use": f"{module}:clip", "threshold": 0.1}, search=folders)
    taken = []
    for rule in (UpdateRule(learning_rate=0.1, own_transform=own), UpdateRule(learning_rate=0.1, clip_norm=0.1)):
        stepper = Stepper(build_problem("deep_linear", {}, seed=0), rule, total_steps=3, seed=0)
        taken.append(torch.stack([stepper.take(step)[1] for step in range(3)]))
        assert rule.clips
    assert (taken[1][:, 2] < 1).any(), "something is clipped"
    # Loss, gradient norm, scale and norm of the update.
    torch.testing.assert_close(taken[0][:, :4], taken[1][:, :4])


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None, True])
def test_a_factor_that_is_none_is_refused_with_the_step(search: tuple[list[str], str], value: object) -> None:
    folders, module = search
    schedule = own_schedule({"use": f"{module}:factor", "value": value}, search=folders)
    with pytest.raises(TrainerError, match=r"the factor of step 2 of 9 is .*, but must be a number, finite"):
        schedule(2, 9)


@pytest.mark.parametrize("what", ["text", "vector", "none", "whole"])
def test_a_scale_that_is_none_is_refused(search: tuple[list[str], str], what: str) -> None:
    folders, module = search
    transform = own_transform({"use": f"{module}:returns", "what": what}, search=folders)
    rule = UpdateRule(learning_rate=0.1, own_transform=transform)
    stepper = Stepper(build_problem("deep_linear", {}, seed=0), rule, total_steps=3, seed=0)
    with pytest.raises(TrainerError, match="must return the factor by which the norm changed"):
        stepper.take(0)


def test_a_number_is_as_good_as_a_tensor(search: tuple[list[str], str]) -> None:
    folders, module = search
    transform = own_transform({"use": f"{module}:returns", "what": "number"}, search=folders)
    rule = UpdateRule(learning_rate=0.1, own_transform=transform)
    _, scalars = Stepper(build_problem("deep_linear", {}, seed=0), rule, total_steps=3, seed=0).take(0)
    assert scalars[2] == 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"use": "halved"}, "option 'after' is required"),
        ({"use": "halved", "after": 1, "befor": 2}, "unknown option 'befor'; known: after"),
        ({"use": "halve"}, "has no 'halve'; known: .*; did you mean 'halved'"),
        ({"use": "no_function"}, r"the factory must return a function \(step, total_steps\) -> factor, not 0.5"),
    ],
)
def test_what_is_wrong_with_a_factory_is_told(
    search: tuple[list[str], str], section: dict[str, object], message: str
) -> None:
    folders, module = search
    with pytest.raises(TrainerError, match=message):
        own_schedule({**section, "use": f"{module}:{section['use']}"}, search=folders)


def test_a_factory_draws_the_same_numbers_in_every_process_and_disturbs_nobody(
    search: tuple[list[str], str],
) -> None:
    folders, module = search
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = own_schedule({"use": f"{module}:draws"}, search=folders)(0, 1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert own_schedule({"use": f"{module}:draws"}, search=folders)(0, 1) == one


def test_transforms_exclude_each_other_whoever_has_written_them(search: tuple[list[str], str]) -> None:
    folders, module = search
    own = own_transform({"use": f"{module}:clip", "threshold": 1.0}, search=folders)
    with pytest.raises(ValueError, match="clip_value and own_transform exclude each other"):
        UpdateRule(learning_rate=0.1, own_transform=own, clip_value=1.0)
