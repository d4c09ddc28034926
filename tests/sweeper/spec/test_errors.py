"""What a spec's mistakes look like: the place, the value found, what is accepted."""

from pathlib import Path

import pytest

from sweeper.errors import SpecError
from sweeper.spec import loads_spec

RULE = "update_rule: {learning_rate: 0.1}\n"
TRAIN = "train: {steps: 5}\n"
PROBLEM = "problem: {use: deep_linear}\n"


def complaint(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        loads_spec(text, name="s.yaml", folder=Path())
    return str(caught.value)


def test_a_problem_is_shown_with_its_line_a_caret_and_what_is_accepted():
    text = PROBLEM + RULE + TRAIN + "measure:\n  every: 10\n  estimators:\n    - use: hessian\n"
    assert complaint(text) == (
        "s.yaml:7:12: measure.estimators[0].use: unknown estimator 'hessian'\n"
        "    7 |     - use: hessian\n"
        "      |            ^ known: directional_smoothness, layer_smoothness, directional_curvature, "
        "critical_sharpness, other_directions, hessian_spectral_norm, hessian_spectrum, preconditioned_sharpness, "
        "gradient_noise, authors_compat, package.module:factory; did you mean 'hessian_spectrum'?"
    )


def test_all_problems_are_shown_at_once_in_the_order_of_the_file():
    text = "problem: {use: deep_liner}\nupdate_rule: {learning_rate: -1, nestrov: true}\ntrain: {}\nsweep: {seeds: 0}\n"
    heads = [line for line in complaint(text).splitlines() if line.startswith("s.yaml")]
    assert heads == [
        "s.yaml:1:16: problem.use: unknown problem 'deep_liner'",
        "s.yaml:2:30: update_rule.learning_rate: must be greater than 0, found -1",
        "s.yaml:2:34: update_rule.nestrov: unknown key",
        "s.yaml:3:1: train.steps: is required",
        "s.yaml:4:16: sweep.seeds: must be at least 1 and at most 100,000, found 0",
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("problem: {}", r"1:1: problem\.use: is required(.|\n)*known: language_modeling"),
        ("problem: 5", r"1:10: problem: must be a section, found 5"),
        ("problem: {use: language_modelling}", "did you mean 'language_modeling'"),
        ("problem: {use: 3}", "unknown problem 3"),
        ("problem: {use: [a]}", "unknown problem"),
        ("problem: {use: deep_linear, widht: 3}", r"1:29: problem\.widht: unknown key(.|\n)*did you mean 'width'"),
        ("problem: {use: deep_linear, width: 2.5}", "width: must be a whole number, found 2.5"),
        ("problem: {use: deep_linear, width: true}", "width: must be a number, found true"),
        ("problem: {use: deep_linear, width: null}", "width: must be a number, found null"),
        ("problem: {use: deep_linear, width: 0}", "width: must be at least 1, found 0"),
        ("problem: {use: deep_linear, width: 1e300}", "width: is too large"),
        ("problem: {use: deep_linear, width: .inf}", "width: must be finite, found .inf"),
        ("problem: {use: deep_linear, width: '8'}", r"found the text '8'(.|\n)*\^ write 8"),
        ("problem: {use: deep_linear, width: 1_000}", r"found the text '1_000'(.|\n)*\^ write 1000"),
        ("problem: {use: deep_linear, noise: '1,5'}", r"found the text '1,5'(.|\n)*\^ write 1.5"),
        ("problem: {use: deep_linear, noise: .nan}", "noise: must be finite, found .nan"),
        (
            "problem: {use: deep_linear, batch_size: 65}",
            "batch_size: batch_size 65 is more than the 64 samples there are",
        ),
        ("problem: {use: language_modeling, model: {use: gru}}", r"model\.use: unknown model 'gru'"),
        ("problem: {use: language_modeling, model: lstm}", r"model: must be a section, found 'lstm'"),
        ("problem: {use: language_modeling, model: {hidden: 8}}", "tied weights need hidden and embedding to be equal"),
        ("problem: {use: language_modeling, corpus: 5}", r"must be text, found 5(.|\n)*quotes make text of it"),
        ("problem: {use: language_modeling, hidden: 5}", r"problem\.hidden: unknown key"),
        ("problem: {use: 'a.b:'}", r"problem\.use: found 'a\.b:'(.|\n)*package\.module:factory"),
        ("problem: {use: 'a:b', x: .nan}", r"problem\.x: must be finite"),
        ("problem: {use: 'a:b', x: [1, {y: 99999999999999999999}]}", "is too large"),
        (
            "problem: {use: 'a:b', opt.lr: 3}",
            r"problem\.opt\.lr: the name has a dot, which would lead into a section(.|\n)*write opt: \{lr: \.\.\.\}",
        ),
        (
            "problem: {use: 'a:b', deep: [{opt.lr: 3}]}",
            r"problem\.deep: has the key 'opt\.lr', whose dot would(.|\n)*write opt: \{lr: \.\.\.\}",
        ),
        ("problem: {use: 'a:b', seed: 1}", r"problem\.seed: clipsweep itself passes seed"),
    ],
)
def test_problems_of_the_problem(section, message):
    assert_complains(f"{section}\n{RULE}{TRAIN}", message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("optimizer: sdg", r"unknown optimizer 'sdg'(.|\n)*did you mean 'sgd'"),
        ("clip_norm: .inf", r"must be finite, found \.inf(.|\n)*null means none"),
        ("clip_norm: none", r"found the text 'none'(.|\n)*null means none"),
        ("clip_norm: 0", "must be greater than 0, found 0"),
        ("clip_norm: 1, normalize: 1", "clip_norm and normalize exclude each other"),
        ("nesterov: yes", r"must be true or false, found 'yes'(.|\n)*write true or false"),
        ("nesterov: 1", "must be true or false, found 1"),
        ("nesterov: true", "nesterov needs a momentum above 0"),
        ("dampening: 0.5", "dampening has no effect without momentum"),
        ("momentum: 1", "must be less than 1, found 1"),
        ("optimizer: adam, momentum: 0.9", "momentum has no effect with the optimizer adam"),
        ("betas: [0.9, 0.99]", "betas has no effect with the optimizer sgd"),
        ("optimizer: adam, betas: [0.9]", "betas: has too few values, found 1"),
        ("optimizer: adam, betas: [0.9, 1, 1]", "betas: has too many values, found 3"),
        ("optimizer: adam, betas: [0.9, 1.5]", r"betas\[1\]: must be less than 1, found 1.5"),
        ("optimizer: adam, betas: 0.9", "betas: must be a list, found 0.9"),
        ("optimizer: muon", r"muon is for hidden matrices, and the rest needs AdamW(.|\n)*rest: \{learning_rate: 3e-4"),
        ("optimizer: muon, rest: {}", r"rest\.learning_rate: is required"),
        ("optimizer: muon, rest: {learning_rate: 1, lr: 2}", r"rest\.lr: unknown key"),
        ("optimizer: muon, ns_steps: 100, rest: {learning_rate: 1}", "ns_steps: must be at most 99, found 100"),
        ("optimizer: muon, rest: {learning_rate: 1}, betas: [0.5, 0.6]", "betas has no effect with the optimizer muon"),
        ("optimizer: adamw, rest: {learning_rate: 1}", "rest has no effect with the optimizer adamw"),
        ("optimizer: muon, momentum: 0, nesterov: true, rest: {learning_rate: 1}", "nesterov needs a momentum above 0"),
        ("decay_on: matrices", r"decay_on has no effect without weight_decay(.|\n)*set weight_decay above 0"),
        ("no_decay: ['*.bias']", "no_decay has no effect without weight_decay"),
        ("weight_decay: 0.1, decay_on: vectors", r"decay_on: must be one of .*matrices|unknown decay_on 'vectors'"),
        ("weight_decay: 0.1, no_decay: []", "no_decay: is empty"),
        ("weight_decay: 0.1, no_decay: '*.bias'", r"no_decay: must be a list, found '\*\.bias'"),
        (
            "clip_each_micro_batch: true",
            r"clip_each_micro_batch: there is nothing to do to each micro-batch(.|\n)*one of clip_norm, .*gradient",
        ),
        (
            "momentum: 0.9, clip_norm: 1, transform_of: momentum, clip_each_micro_batch: true",
            "there is nothing to do to each micro-batch",
        ),
        ("schedule: {}", r"schedule\.use: is required(.|\n)*constant, step_decay, cosine"),
        ("schedule: {use: exponential}", "unknown schedule 'exponential'"),
        ("schedule: {use: step_decay}", r"schedule\.milestones: is required"),
        ("schedule: {use: step_decay, milestones: [2, 1]}", "must rise from one to the next"),
        ("schedule: {use: step_decay, milestones: []}", "milestones: is empty"),
        ("schedule: {use: cosine, factor: 1}", r"schedule\.factor: unknown key(.|\n)*known: use, final_fraction"),
        ("schedule: cosine", "schedule: must be a section, found 'cosine'"),
    ],
)
def test_problems_of_the_update_rule(options, message):
    assert_complains(f"{PROBLEM}update_rule: {{learning_rate: 1, {options}}}\n{TRAIN}", message)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("train: {steps: 400.5}", "steps: must be a whole number, found 400.5"),
        ("train: {steps: 0}", "steps: must be at least 1, found 0"),
        ("train: {steps: 5, accumulate: 0}", "accumulate: must be at least 1, found 0"),
        ("train: {steps: 5, accumulate: 1.5}", "accumulate: must be a whole number, found 1.5"),
        ("train: {steps: 5, max_loss: -1}", "max_loss: must be greater than 0, found -1"),
        ("train: {steps: 5, log_every: yes}", "log_every: must be a number, found the text 'yes'"),
        ("train: {steps: 5}\nname: a/b", "name: cannot be the name of a run directory, found 'a/b'"),
        ("train: {steps: 5}\nname: 5", "found 5(.|\n)*quotes make text of a number"),
        ("train: {steps: 5}\nnmae: x", r"4:1: nmae: unknown key(.|\n)*did you mean 'name'"),
        ("train: {steps: 5}\nmeasure: {}", "measure: does not say when to measure(.|\n)*every, first, last, epochs"),
        ("train: {steps: 5}\nmeasure: {every: 1, to_step: 2, from_step: 3}", "to_step 2 comes before from_step 3"),
        ("train: {steps: 5}\nmeasure: {every: 1, data_fraction: 1.5}", "data_fraction: must be at most 1, found 1.5"),
        ("train: {steps: 5}\nmeasure: {steps: 3}", "steps: must be a list, found 3"),
        ("train: {steps: 5}\nmeasure: {steps: [-1]}", r"steps\[0\]: must be at least 0, found -1"),
        ("train: {steps: 5}\nmeasure: {every: 1, estimators: []}", "estimators: is empty"),
        (
            "train: {steps: 5}\nmeasure: {every: 1, estimators: [{use: directional_smoothness, delta: 0.3}]}",
            r"1/delta must be a whole number, found 0\.3(.|\n)*the nearest is 0\.3333333333333333",
        ),
        (
            "train: {steps: 5}\nmeasure: {every: 1, estimators: [{use: directional_smoothness, delta: 1.0e-9}]}",
            "delta: is too small",
        ),
        (
            "train: {steps: 5}\nmeasure: {every: 1, estimators: [{use: directional_smoothness, tolerance: 0.1}]}",
            r"method exact has no tolerance(.|\n)*leave it out, or set method to adaptive",
        ),
        (
            "train: {steps: 5}\n"
            "measure: {every: 1, estimators: [{use: directional_smoothness, method: adaptive, tolerance: 0}]}",
            "tolerance: must be greater than 0, found 0",
        ),
        (
            "train: {steps: 5}\n"
            "measure: {every: 1, estimators: [{use: directional_smoothness}, {use: directional_smoothness, delta: 1}]}",
            "an estimator appears twice",
        ),
        ("train: {steps: 5}\nresources: {trainers: {count: many}}", "a number or auto, found the text 'many'"),
        (
            "train: {steps: 5}\nresources: {estimators: {cuda_graphs: true}}",
            r"cuda_graphs: CUDA graphs need a GPU(.|\n)*set gpus, or leave cuda_graphs out",
        ),
        (
            "train: {steps: 5}\nresources: {trainers: {cuda_graphs: true}}",
            r"trainers\.cuda_graphs: CUDA graphs need a GPU(.|\n)*set gpus, or leave cuda_graphs out",
        ),
        (
            "train: {steps: 5}\nresources: {trainers: {gpus: 1, cuda_graphs: on}}",
            r"cuda_graphs: must be auto, true or false, found (.|\n)*write auto, true or false",
        ),
        (
            "train: {steps: 5}\nresources: {trainers: {gpus: 2}}",
            r"resources\.trainers\.gpus: must be at most 1, found 2(.|\n)*one GPU(.|\n)*raise count",
        ),
        ("train: {steps: 5}\nresources: {estimators: {gpus: 1.5}}", r"estimators\.gpus: must be at most 1, found 1\.5"),
        ("train: {steps: 5}\nresources: {estimators: {gpus: 1e-5}}", r"must be 0 or at least 0\.0001"),
        (
            "train: {steps: 5}\nresources: {trainers: {accelerator_type: A100}}",
            r"accelerator_type: a worker without a GPU has no accelerator(.|\n)*set gpus",
        ),
        ("train: {steps: 5}\nresources: {trainers: {gpus: 1, accelerator_type: 'an A100'}}", r"accelerator_type: "),
        ("train: {steps: 5}\ncluster: {gpus: 1.5}", r"cluster\.gpus: must be a whole number"),
        ("train: {steps: 5}\nresources: {trainers: {count: 0}}", "count: must be at least 1, found 0"),
        ("train: {steps: 5}\nresources: {trainers: {cpus: -1}}", "cpus: must be at least 0, found -1"),
        ("train: {steps: 5}\ncluster: {address: nowhere}", "address: found 'nowhere'(.|\n)*host:port"),
        ("train: {steps: 5}\nmetrics: {f1: larger}", "f1: must be min or max, found 'larger'"),
        ("train: {steps: 5}\nmetrics: [f1]", r"metrics: must be a section(.|\n)*as in \{f1: max\}"),
        ("train: {steps: 5}\ncluster: local", "cluster: must be a section, found 'local'"),
    ],
)
def test_problems_of_the_other_sections(rest, message):
    assert_complains(f"{PROBLEM}{RULE}{rest}\n", message)


def test_missing_sections_are_named_without_pointing_anywhere():
    assert complaint("name: x") == (
        "s.yaml: problem: is required\n      what is minimised, as in {use: language_modeling}\n"
        "s.yaml: update_rule: is required\n      how a step is taken, as in {optimizer: sgd, learning_rate: 1.0}\n"
        "s.yaml: train: is required\n      how long, as in {steps: 400}"
    )


def test_a_great_many_problems_are_counted_not_listed():
    text = PROBLEM + RULE + TRAIN + "\n".join(f"k{i}: 1" for i in range(100))
    assert complaint(text).endswith("... and 60 more problems")


def assert_complains(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        loads_spec(text, name="s.yaml", folder=Path())


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("update_rule.lr=3", "did you mean 'learning_rate'?"),
        ("update_rule.max_norm=1", "did you mean 'clip_norm'?"),
        ("update_rule.optimizer=SGD", "did you mean 'sgd'?"),
        ("train.epochs=3", "did you mean 'steps'?"),
        ("update_rule.schedule=cosine", "write {use: cosine}"),
        ("update_rule.schedule=step", "write {use: NAME}; known: constant, step_decay, cosine"),
        ("measure.estimators=[directional_smoothness]", "write {use: directional_smoothness}"),
        ("resources.trainers=4", "write {count: 4}"),
        ("learning_rate=3", "did you mean 'update_rule.learning_rate'?"),
        ("LR=3", "did you mean 'update_rule.learning_rate'?"),
        ("train=4", "keys: steps, log_every"),
    ],
)
def test_what_other_tools_call_otherwise_is_understood_by_the_suggestion(override: str, hint: str) -> None:
    spec = "{problem: {use: deep_linear}, update_rule: {learning_rate: 1}, train: {steps: 5}, measure: {every: 1}}"
    with pytest.raises(SpecError) as refused:
        loads_spec(spec, folder=Path(), overrides=[override])
    assert hint in str(refused.value)


def test_a_message_that_says_it_all_has_no_hint_that_says_it_again() -> None:
    spec = "{problem: {use: deep_linear}, update_rule: {learning_rate: 1}, train: {steps: many}}"
    with pytest.raises(SpecError) as refused:
        loads_spec(spec, folder=Path())
    assert str(refused.value).splitlines()[-1].rstrip().endswith("^")
    assert "must be a number, found the text 'many'" in str(refused.value)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("{steps: [1, 5]}", "measure.steps: no trial has a step 5, so that nothing is measured there"),
        ("{every: 1, from_step: 5}", "measure.from_step: no trial has a step 5, so that nothing is measured there"),
    ],
)
def test_a_step_that_no_trial_reaches_is_refused(measure: str, message: str) -> None:
    text = f"{PROBLEM}{RULE}{TRAIN}measure: {measure}\n"
    assert message in complaint(text)
    assert "the longest trial has steps 0 to 4" in complaint(text)
    longer = text.replace("steps: 5}", "steps: 5}\nsweep: {grid: {train.steps: [2, 9]}}")
    assert loads_spec(longer, folder=Path()).cells
