"""The spec and the code that it configures agree on names and defaults, without importing one another."""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
import torch

from estimators import ESTIMATORS, NEED_STEP, ProbePolicy
from estimators.smoothness.directional import fractions_of
from sweeper.protocol.messages import OWN_TABLE
from sweeper.spec.sections.estimators import ESTIMATOR_OPTIONS, DirectionalSmoothness
from sweeper.spec.sections.measure import Measure, Probe
from sweeper.spec.sections.own import Own
from sweeper.spec.sections.problems import ADDED_OPTIONS as ADDED_PROBLEM_OPTIONS
from sweeper.spec.sections.problems import PROBLEM_OPTIONS
from sweeper.spec.sections.settings import ADDED_TRAIN_OPTIONS, Train
from sweeper.spec.sections.update_rule import (
    ADDED_OPTIONS,
    ADDED_SCHEDULE_OPTIONS,
    OPTIONS_OF_OPTIMIZERS,
    TRANSFORMS,
    Rest,
    StepDecay,
    UpdateRule,
)
from sweeper.spec.sections.values import Section
from sweeper.spec.validation import sections_in
from sweeper.tables.schemas import MEASUREMENTS
from sweeper.workers.step_facts import NEED_PRECONDITIONER
from trainers.analytic.functions import FUNCTIONS
from trainers.analytic.noise import NOISES
from trainers.analytic.theory import THEORIES
from trainers.problems import PROBLEMS
from trainers.problems.image_classification import MODELS as IMAGE_MODELS
from trainers.problems.language_modeling import MODELS as LANGUAGE_MODELS
from trainers.training import loop, snapshot
from trainers.update import rule as trained
from trainers.update import transforms
from trainers.update.schedules import SCHEDULES
from trainers.update.thresholds import THRESHOLDS

PASSED_BESIDES = {"seed", "device"}
REQUIRED = "required"


def spec_defaults(section: type[Section]) -> dict[str, Any]:
    dumped = {
        name: REQUIRED if info.is_required() else info.get_default() for name, info in section.model_fields.items()
    }
    return {
        name: value.model_dump(mode="json") if isinstance(value, Section) else value
        for name, value in dumped.items()
        if name != "use"
    }


def factory_defaults(factory: Any) -> dict[str, Any]:
    return {
        name: REQUIRED if parameter.default is parameter.empty else plain(parameter.default)
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in PASSED_BESIDES
    }


def dataclass_defaults(kind: type) -> dict[str, Any]:
    return {
        field.name: plain(
            field.default_factory()
            if field.default_factory is not MISSING
            else REQUIRED
            if field.default is MISSING
            else field.default
        )
        for field in fields(kind)
    }


def plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def test_the_same_problems_are_known():
    assert list(PROBLEM_OPTIONS) == [*PROBLEMS, "analytic"]


def test_options_that_leave_old_ids_alone_are_named_with_their_defaults():
    for use, added in ADDED_PROBLEM_OPTIONS.items():
        assert added.items() <= spec_defaults(PROBLEM_OPTIONS[use]).items()
    assert ADDED_OPTIONS.items() <= spec_defaults(UpdateRule).items()
    assert ADDED_TRAIN_OPTIONS.items() <= spec_defaults(Train).items()
    assert ADDED_SCHEDULE_OPTIONS.items() <= spec_defaults(StepDecay).items()


@pytest.mark.parametrize("use", PROBLEMS)
def test_options_and_defaults_of_problems_agree(use):
    assert spec_defaults(PROBLEM_OPTIONS[use]) == factory_defaults(PROBLEMS[use])


@pytest.mark.parametrize(
    ("use", "models"), [("language_modeling", LANGUAGE_MODELS), ("image_classification", IMAGE_MODELS)]
)
def test_models_and_their_defaults_agree(use, models):
    sections = {
        spec: section
        for section in sections_in(PROBLEM_OPTIONS[use].model_fields["model"].annotation)
        for spec in section.model_fields["use"].annotation.__args__
    }
    assert sections.keys() == models.keys()
    # What the problem itself passes, from its data.
    given = {"num_tokens", "max_length", "channels", "side", "num_classes", "self"}
    for name, factory in models.items():
        expected = {key: value for key, value in factory_defaults(factory).items() if key not in given}
        assert spec_defaults(sections[name]).keys() == expected.keys()
        for key, value in expected.items():
            assert value in {REQUIRED, spec_defaults(sections[name])[key]}


def test_options_and_defaults_of_update_rules_agree():
    spec, code = spec_defaults(UpdateRule), dataclass_defaults(trained.UpdateRule)
    # A theorem sets the rule of an analytic function, where there is no rate of the spec's own.
    assert (spec.pop("from_theory"), spec.pop("learning_rate"), code.pop("learning_rate")) == (None, None, REQUIRED)
    # One of the user's own: a section in the spec, a function in the rule.
    assert (spec.pop("transform"), code.pop("own_transform")) == (None, None)
    assert spec == code


def test_the_same_optimizers_are_known_and_take_the_same_options():
    assert OPTIONS_OF_OPTIMIZERS.keys() == trained.OPTIMIZERS.keys() | {"muon"}
    parameter = torch.nn.Parameter(torch.zeros(2))
    for name, options in OPTIONS_OF_OPTIMIZERS.items():
        # Not half the default where that is zero.
        values = {
            "momentum": 0.5,
            "dampening": 0.0,
            "nesterov": True,
            "weight_decay": 0.1,
            "betas": (0.5, 0.6),
            "eps": 0.1,
            "lambd": 0.1,
            "alpha": 0.5,
            "t0": 3.0,
            "ns_steps": 3,
            "adjust_rate": "match_rms_adamw",
            "rest": {"learning_rate": 0.1},
        }
        chosen = {key: values[key] for key in options}
        UpdateRule(optimizer=name, learning_rate=1.0, **chosen)
        rule = trained.UpdateRule(optimizer=name, learning_rate=1.0, **chosen)
        if name != "muon":
            built = rule.build_optimizer(parameter)
            assert {key: built.defaults[key] for key in options} == chosen
        needed = {"rest": values["rest"]} if name == "muon" else {}
        for other in values.keys() - options - {"dampening", "nesterov"}:
            with pytest.raises(ValueError, match=other):
                UpdateRule(optimizer=name, learning_rate=1.0, **needed, **{other: values[other]})
            with pytest.raises(ValueError, match=other):
                trained.UpdateRule(optimizer=name, learning_rate=1.0, **needed, **{other: values[other]})


def test_what_muon_leaves_to_adamw_has_adamws_options_and_defaults():
    spec = spec_defaults(Rest)
    assert spec.keys() == set(trained.REST_OPTIONS)
    of_torch = inspect.signature(torch.optim.AdamW).parameters
    for name in ("betas", "eps"):
        assert spec[name] == of_torch[name].default
    assert (spec["learning_rate"], spec["matrices"]) == (REQUIRED, None)


@pytest.mark.parametrize(
    "schedule",
    [
        {"use": "constant"},
        {"use": "step_decay", "milestones": [2]},
        {"use": "step_decay", "milestones": [2], "factor": 0.5},
        {"use": "step_decay", "milestones": [1], "unit": "epochs"},
        {"use": "cosine"},
        {"use": "cosine", "final_fraction": 0.5},
    ],
)
def test_schedules_mean_the_same_with_defaults_filled_in(schedule):
    resolved = UpdateRule.model_validate({"learning_rate": 1.0, "schedule": schedule}).model_dump(mode="json")[
        "schedule"
    ]
    written = trained.UpdateRule(learning_rate=1.0, schedule=schedule)
    filled = trained.UpdateRule(learning_rate=1.0, schedule=resolved)
    assert [written.learning_rate_at(k, 5) for k in range(5)] == [filled.learning_rate_at(k, 5) for k in range(5)]


def test_the_same_transforms_and_averages_are_known():
    assert list(TRANSFORMS) == list(trained.ONE_OF)
    assert list(TRANSFORMS)[:-2] == list(transforms.TRANSFORMS)
    sections = sections_in(UpdateRule.model_fields["average"].annotation)
    assert {
        name: [key for key in section.model_fields if key != "use"]
        for section in sections
        for name in section.model_fields["use"].annotation.__args__
    } == {name: [option] for name, option in trained.AVERAGES.items()}


def test_the_same_thresholds_are_known_with_the_same_defaults():
    sections = sections_in(UpdateRule.model_fields["clip_threshold"].annotation)
    assert [name for s in sections for name in s.model_fields["use"].annotation.__args__] == list(THRESHOLDS)
    for section, threshold in zip(sections, THRESHOLDS.values(), strict=True):
        assert spec_defaults(section) == factory_defaults(threshold)


def test_the_same_schedules_are_known():
    sections = [s for s in sections_in(UpdateRule.model_fields["schedule"].annotation) if not issubclass(s, Own)]
    assert {name for s in sections for name in s.model_fields["use"].annotation.__args__} == set(SCHEDULES)
    for section in sections:
        for name in section.model_fields["use"].annotation.__args__:
            parameters = list(inspect.signature(SCHEDULES[name]).parameters.values())[3:]
            options = spec_defaults(section)
            assert options.pop("warmup", 0.0) == 0.0
            assert options == {
                parameter.name: REQUIRED if parameter.default is parameter.empty else parameter.default
                for parameter in parameters
            }


def test_train_settings_agree_except_for_the_spacing_of_checkpoints():
    spec, code = spec_defaults(Train), dataclass_defaults(loop.TrainSettings)
    # The spec has a default of its own: a trial without checkpoints loses everything in a crash.
    assert (spec.pop("checkpoint_every"), code.pop("checkpoint_every")) == (500, None)
    # Null is every step, but of analytic functions the first and the last.
    assert (spec.pop("log_every"), code.pop("log_every")) == (None, 1)
    assert spec == code


def test_measure_and_the_snapshot_schedule_agree():
    code = dataclass_defaults(snapshot.SnapshotSchedule)
    assert {name: value for name, value in spec_defaults(Measure).items() if name in code} == code


def test_the_same_estimators_are_known_and_take_the_same_options():
    sections = {
        name: section
        for section in sections_in(Measure.model_fields["estimators"].annotation)
        if not issubclass(section, Own)
        for name in section.model_fields["use"].annotation.__args__
    }
    # Those of the user's own share a table.
    assert [*sections, OWN_TABLE] == [*ESTIMATOR_OPTIONS, OWN_TABLE] == [*ESTIMATORS, OWN_TABLE] == list(MEASUREMENTS)
    for name, section in sections.items():
        parameters = list(inspect.signature(ESTIMATORS[name]).parameters.values())[2:]
        if name in NEED_STEP:
            # What the step was made of: no spec says that.
            of_step = parameters[-len(NEED_STEP[name]) :]
            assert {parameter.name for parameter in of_step} == set(NEED_STEP[name])
            assert all(parameter.default is None for parameter in of_step)
            parameters = parameters[: -len(of_step)]
        assert spec_defaults(section) == {parameter.name: parameter.default for parameter in parameters}


def test_trainers_know_which_estimators_need_the_preconditioner():
    assert {name for name, needed in NEED_STEP.items() if "preconditioner" in needed} == NEED_PRECONDITIONER


def test_the_probe_policy_of_spec_and_code_agree():
    assert spec_defaults(Probe) == dataclass_defaults(ProbePolicy)


@pytest.mark.parametrize("delta", [1.0, 0.5, 0.3333333, 0.1, 0.001])
def test_every_spacing_that_the_spec_accepts_has_sample_points(delta):
    section = DirectionalSmoothness.model_validate({"use": "directional_smoothness", "delta": delta})
    assert fractions_of(section.delta)[-1] == 1


def test_the_same_functions_are_known_and_take_the_same_numbers():
    sections = sections_in(PROBLEM_OPTIONS["analytic"].model_fields["function"].annotation)
    known = {name: section for section in sections for name in section.model_fields["use"].annotation.__args__}
    assert known.keys() == FUNCTIONS.keys()
    for name, section in known.items():
        defaults = spec_defaults(section)
        taken = dataclass_defaults(FUNCTIONS[name])
        if name == "theorem4_flat":
            assert (defaults, taken) == ({}, {"epsilon": REQUIRED})  # the problem's own epsilon
            continue
        assert defaults.keys() == taken.keys()
        assert all(taken[key] in {REQUIRED, value} for key, value in defaults.items())
        FUNCTIONS[name](**defaults)


def test_the_same_theorems_and_kinds_of_noise_are_known():
    def literals(section, field):
        return {v for part in get_args(section.model_fields[field].annotation) for v in (get_args(part) or (part,))}

    assert literals(UpdateRule, "from_theory") - {type(None)} == set(THEORIES)
    assert literals(PROBLEM_OPTIONS["analytic"], "noise_kind") == set(NOISES)
