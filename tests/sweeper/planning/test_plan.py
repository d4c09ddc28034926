"""Trials and their ids: what changes them, and what does not."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import SpecError
from sweeper.planning.expectation import expected
from sweeper.planning.plan import Plan, arm_of, expand, measurement_id
from sweeper.spec import loads_spec
from sweeper.store.journal import RunState

BASE: dict[str, Any] = {
    "problem": {"use": "deep_linear", "layers": 2, "width": 8, "samples": 64, "noise": 0.0, "batch_size": None},
    "update_rule": {
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "clip_norm": 0.25,
        "normalize": None,
        "schedule": {"use": "step_decay", "milestones": [3], "factor": 0.1, "unit": "steps", "warmup": 0.0},
    },
    "train": {"steps": 5, "log_every": 1, "evaluate_every": None, "checkpoint_every": 500, "max_loss": None},
}
LANGUAGE: dict[str, Any] = {
    "use": "language_modeling",
    "corpus": "python-docs",
    "model": {"use": "lstm", "layers": 2, "hidden": 200, "embedding": 200, "tied": False, "dropout": 0.0},
    "batch_size": 20,
    "sequence_length": 35,
    "evaluate_sequences": 20,
    "evaluate_fraction": 0.5,
    "random_length": {"halved": 0.05, "jitter": 5.0},
}
IMAGES: dict[str, Any] = {
    "use": "image_classification",
    "dataset": "digits",
    "model": {"use": "resnet20", "width": 16},
    "batch_size": 128,
    "augment": False,
    "evaluate_fraction": 0.5,
}
ADAM: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 1.0,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "normalize": 0.5,
    "schedule": {"use": "cosine", "final_fraction": 0.0},
}
ASGD: dict[str, Any] = {"optimizer": "asgd", "learning_rate": 1.0, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6}
MUON: dict[str, Any] = {
    "optimizer": "muon",
    "learning_rate": 1.0,
    "momentum": 0.9,
    "ns_steps": 4,
    "adjust_rate": "original",
    "rest": {
        "learning_rate": 1.0,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "weight_decay": 0.1,
        "matrices": ["embedding.*"],
    },
}
LATER = [
    {"use": "linear", "final_fraction": 0.0},
    {"use": "inverse_sqrt", "timescale": 100},
    {"use": "stable_decay", "decay": 0.2, "shape": "linear", "final_fraction": 0.0},
    {"use": "one_cycle", "rise": 0.3, "initial_fraction": 0.04, "final_fraction": 4e-6},
]
THRESHOLDS = [
    {"use": "percentile", "percentile": 10.0, "window": 10_000},
    {"use": "z_score", "z": 2.5, "decay": 0.97, "warmup": 25, "clip_to": "reciprocal"},
    {"use": "moving_average", "factor": 4.0, "decay": 0.99, "warmup": 25, "average_of": "clipped"},
    {"use": "schedule", "points": [[0, 1.0], [9, 0.5]], "between": "linear"},
]
OTHERS: list[dict[str, Any]] = [
    ASGD | {"clip_value": 1.0},
    ASGD | {"clip_layer_norm": 1.0},
    {"learning_rate": 1.0, "clip_adaptive": 0.01, "average": {"use": "from_step", "step": 5}},
    {"learning_rate": 1.0, "clip_norm": 1.0, "when_exceeded": "clip"},
    {"learning_rate": 1.0, "clip_groups": [{"match": "*", "clip_norm": 1.0}]},
    *({"learning_rate": 1.0, "clip_threshold": threshold} for threshold in THRESHOLDS),
    {"learning_rate": 1.0, "average": {"use": "from_step", "step": 3}},
    {"learning_rate": 1.0, "momentum": 0.9, "clip_norm": 1.0, "transform_of": "gradient"},
    *({"learning_rate": 1.0, "schedule": schedule} for schedule in LATER),
]


def plan_of(document: dict[str, Any] | str, folder: Path = Path()) -> Plan:
    # PyYAML writes 1.0e-08 for what JSON writes as 1e-08: both are read as the number.
    text = document if isinstance(document, str) else json.dumps(document)
    return expand(loads_spec(text, folder=folder))


def id_of(document: dict[str, Any] | str) -> str:
    (trial,) = plan_of(document).trials
    return trial.trial_id


def with_value(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    section = changed
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return changed


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def another(value: Any) -> Any:
    """A valid value that is not this one, for most keys."""
    match value:
        case bool():
            return not value
        case None:
            return 3
        case list():
            return [another(item) for item in value]
        case list() if all(isinstance(item, int | float) for item in value):
            return [item / 2 if isinstance(item, float) else item + 1 for item in value]
        case float() if value == 0:
            return 0.5
        case float():
            return value / 2
        case int():
            return value + 1
    return value


ALSO = {
    "use": None,
    "corpus": None,
    "dataset": None,
    "optimizer": "rmsprop",
    "unit": "epochs",
    "shape": "sqrt",
    "transform_of": "momentum",
    "decay_on": "all",
    "no_decay": ["*.gain"],
    "adjust_rate": "match_rms_adamw",
    "matrices": ["head.*"],
    "when_exceeded": "skip",
    "clip_groups": [{"match": "*", "clip_norm": 2.0}],
    "clip_to": "mean",
    "average_of": "raw",
    "points": [[0, 1.0], [8, 0.5]],
    "between": "hold",
    "normalize": None,
    "checkpoint_every": None,
    "arithmetic": "bf16",
}


def documents() -> Iterator[dict[str, Any]]:
    yield BASE
    yield BASE | {"problem": LANGUAGE}
    yield BASE | {"problem": IMAGES}
    yield BASE | {"update_rule": ADAM}
    average = {"learning_rate": 1.0, "average": {"use": "non_monotone", "window": 5}}
    yield BASE | {"update_rule": average, "train": BASE["train"] | {"evaluate_every": 2}}
    yield BASE | {"update_rule": MUON}
    decays = {"learning_rate": 1.0, "weight_decay": 0.1}
    yield BASE | {"update_rule": decays | {"decay_on": "matrices", "no_decay": ["*.bias"]}}
    each = {"learning_rate": 1.0, "clip_norm": 1.0, "clip_each_micro_batch": True}
    yield BASE | {"update_rule": each, "train": BASE["train"] | {"accumulate": 2, "arithmetic": "ieee"}}
    for rule in OTHERS:
        yield BASE | {"update_rule": rule}


CHANGES = [
    pytest.param(document, path, ALSO.get(path[-1], another(value)), id=".".join(path))
    for document in documents()
    for path, value in leaves(document)
    # What is Muon's has no meaning for other optimisers.
    if ALSO.get(path[-1], another(value)) is not None and value != "muon"
]


@pytest.mark.parametrize(("document", "path", "value"), CHANGES)
def test_every_value_that_is_trained_with_changes_the_id(document, path, value):
    if path[-1] == "dampening":
        document = with_value(document, ("update_rule", "nesterov"), False)
    changed = with_value(document, path, value)
    if path[-1] in {"optimizer", "nesterov"}:
        changed["update_rule"]["dampening"] = 0.0
    assert id_of(changed) != id_of(document)


def test_every_leaf_of_the_resolved_sections_is_among_those_that_were_changed():
    changed = {param.values[1] for param in CHANGES}
    names = {(*path[:-1], path[-1]) for document in documents() for path, _ in leaves(resolved_of(document))}
    left_out = {path for path in names - changed if path[0] in {"problem", "update_rule", "train"}}
    assert {path[-1] for path in left_out} == {
        "use",
        "corpus",
        "dataset",
        "normalize",
        "transform",
        "from_theory",
        "rest",
        "checkpoint_every",
        "average",
        "clip_threshold",
    }


def resolved_of(document: dict[str, Any]) -> dict[str, Any]:
    (trial,) = plan_of(document).trials
    return {"problem": trial.problem, "update_rule": trial.update_rule, "train": trial.train}


def test_the_kind_of_problem_schedule_and_transform_change_the_id():
    documents_ = [
        *documents(),
        BASE | {"update_rule": {"learning_rate": 1.0}},
        BASE | {"update_rule": {"learning_rate": 1.0, "schedule": {"use": "cosine"}}},
        BASE | {"update_rule": {"learning_rate": 1.0, "clip_norm": 0.5}},
        BASE | {"update_rule": {"learning_rate": 1.0, "normalize": 0.5}},
        BASE | {"update_rule": {"learning_rate": 1.0, "normalize": 0.25}},
    ]
    assert len({id_of(document) for document in documents_}) == len(documents_)


def test_checkpoints_measuring_resources_and_names_do_not_change_the_id():
    changed = with_value(BASE, ("train", "checkpoint_every"), 7) | {
        "name": "other",
        "measure": {"every": 3},
        "resources": {"trainers": {"count": 3}},
        "cluster": {"address": "auto"},
    }
    assert id_of(changed) == id_of(BASE)


@given(st.data())
def test_key_order_formatting_and_explicit_defaults_do_not_change_the_id(data):
    document = data.draw(st.sampled_from(list(documents())))
    expected = id_of(document)
    defaults = {"problem": {}, "update_rule": {}, "train": {}}
    resolved = {name: dict(section) for name, section in resolved_of(document).items()}
    # Any of the defaults may be left out, and the others written.
    written = {
        name: {
            key: value
            for key, value in section.items()
            if key in document[name] or data.draw(st.booleans(), label=f"write {name}.{key}")
        }
        for name, section in (resolved | defaults | resolved).items()
    }
    shuffled = shuffle(written, data)
    style = data.draw(st.sampled_from([None, True, False]), label="flow style")
    text = yaml.safe_dump(shuffled, default_flow_style=style, sort_keys=False, indent=data.draw(st.integers(2, 6)))
    assert id_of("# a comment\n" + text) == expected


def shuffle(value: Any, data: st.DataObject) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: shuffle(value[key], data) for key in data.draw(st.permutations(list(value)))}


@pytest.mark.parametrize("one", ["1", "1.0", "1e0", "10e-1", "+1", "01", "0x1"])
def test_ways_to_write_a_number_do_not_change_the_id(one):
    text = "{{problem: {{use: deep_linear, layers: {0}}}, update_rule: {{learning_rate: {0}}}, train: {{steps: {0}}}}}"
    assert id_of(text.format(one)) == id_of(text.format(1))


def test_minus_zero_is_zero():
    text = (
        "{{problem: {{use: deep_linear}}, update_rule: {{learning_rate: 1, weight_decay: {0}}}, train: {{steps: 1}}}}"
    )
    assert id_of(text.format("-0.0")) == id_of(text.format("0"))


def test_anchors_and_merge_keys_do_not_change_the_id():
    text = (
        "problem: {use: deep_linear, width: &n 3}\n"
        "update_rule: &rule {learning_rate: 1, momentum: 0.5}\n"
        "train: {steps: *n}\n"
    )
    plain = "{problem: {use: deep_linear, width: 3}, update_rule: {learning_rate: 1, momentum: 0.5}, train: {steps: 3}}"
    assert id_of(text) == id_of(plain)


def test_a_swept_value_gives_the_same_id_as_a_written_one():
    swept = plan_of(BASE | {"sweep": {"grid": {"train.steps": [5, 6]}, "seeds": [0, 3]}})
    assert swept.trials[0].trial_id == id_of(BASE)
    assert swept.trials[2].trial_id == id_of(with_value(BASE, ("train", "steps"), 6))
    assert [(trial.seed, trial.index) for trial in swept.trials] == [(0, 0), (3, 1), (0, 2), (3, 3)]


def test_seeds_change_trials_but_not_cells():
    trials = plan_of(BASE | {"sweep": {"seeds": 3}}).trials
    assert len({trial.trial_id for trial in trials}) == 3
    assert len({trial.cell_id for trial in trials}) == 1
    assert trials[0].cell_id not in {trial.trial_id for trial in trials}


def test_ids_stay_what_they_are():
    # A change here retrains everything that anybody has ever trained: then, and only then, count the schema up.
    (trial,) = plan_of(BASE).trials
    assert (trial.trial_id, trial.cell_id) == ("89a6bd454a4d7828", "2e517260dc3aa118")


def test_a_plan_counts_its_parts():
    plan = plan_of(BASE | {"sweep": {"grid": {"update_rule.clip_norm": [None, 1]}, "seeds": 3}})
    assert (plan.num_cells, plan.num_seeds, len(plan.trials), plan.num_steps) == (2, 3, 6, 30)
    assert plan.arms == ("sgd(momentum) + step_decay", "sgd(momentum) + clip_norm + step_decay")
    json.dumps([vars(trial) for trial in plan.trials])


@pytest.mark.parametrize(
    ("rule", "arm"),
    [
        ({"optimizer": "sgd"}, "sgd"),
        ({"optimizer": "sgd", "clip_norm": 0.25}, "sgd + clip_norm"),
        ({"optimizer": "sgd", "momentum": 0.9, "normalize": 1.0}, "sgd(momentum) + normalize"),
        ({"optimizer": "adamw", "weight_decay": 0.1, "schedule": {"use": "cosine"}}, "adamw(weight_decay) + cosine"),
        ({"optimizer": "adam", "schedule": {"use": "constant"}}, "adam"),
        ({"optimizer": "sgd", "weight_decay": 0.1, "decay_on": "matrices"}, "sgd(weight_decay of matrices)"),
        (MUON | {"nesterov": True, "weight_decay": 0.1}, "muon(momentum, nesterov, weight_decay)"),
        ({"optimizer": "sgd", "weight_decay": 0.1, "no_decay": ["*.bias"]}, "sgd(weight_decay, no_decay)"),
        ({"optimizer": "sgd", "clip_norm": 1.0, "clip_each_micro_batch": True}, "sgd + clip_norm(each micro-batch)"),
        ({"optimizer": "sgd", "from_theory": "theorem3"}, "theorem3"),
    ],
)
def test_an_arm_names_what_is_in_use_but_no_numbers(rule, arm):
    assert arm_of(rule) == arm


def measured(**measure: Any) -> str:
    return measurement_id(loads_spec(json.dumps(BASE | {"measure": measure}), folder=Path()).measure)


def test_measurement_ids_hang_on_what_is_measured_and_not_on_what_is_kept():
    assert measured(every=10) == measured(every=10, keep=True, data_fraction=0.1, steps=[])
    assert measured(steps=[1, 2]) == measured(steps=[2, 1, 1])
    different = [
        measured(every=10),
        measured(every=9),
        measured(every=10, data_fraction=0.2),
        measured(every=10, first=1),
        measured(every=10, estimators=[{"use": "directional_smoothness", "delta": 0.5}]),
        measurement_id(None),
    ]
    assert len(set(different)) == len(different)


def test_measurement_ids_stay_what_they_are():
    # An option that a method does not have is no part of its id.
    exact = measured(every=1, estimators=[{"use": "directional_smoothness"}])
    curve = measured(every=1, estimators=[{"use": "directional_smoothness", "method": "chebyshev"}])
    # The probe's batches were once of other sizes: of another f there were ("c7f6065e2c7bf718", "056f8fde2a25a29f").
    assert (exact, curve) == ("463b2fc16fe88fc6", "df65598385453666")


def test_the_tolerance_of_a_search_is_part_of_its_id():
    ids = {
        measured(every=1, estimators=[{"use": "directional_smoothness", "method": "adaptive"} | options])
        for options in ({}, {"tolerance": 0.01}, {"tolerance": 0.05})
    }
    assert len(ids) == 2


def test_spacings_that_differ_by_rounding_are_one_measurement():
    thirds = [[{"use": "directional_smoothness", "delta": delta}] for delta in (0.3333333, 1 / 3)]
    assert measured(every=1, estimators=thirds[0]) == measured(every=1, estimators=thirds[1])


def write_texts(folder):
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("a text\n")


def test_folders_of_data_are_found_beside_the_spec_and_do_not_tie_ids_to_a_machine(tmp_path):
    ids = []
    for name in ("here", "there"):
        data = tmp_path / name / "data" / "ptb"
        data.mkdir(parents=True)
        write_texts(data)
        document = BASE | {"problem": LANGUAGE | {"corpus": "./data/ptb"}}
        (trial,) = plan_of(document, folder=tmp_path / name).trials
        assert Path(trial.problem["corpus"]) == data
        ids.append(trial.trial_id)
    assert ids[0] == ids[1]


def test_missing_folders_of_data_are_named_with_what_is_embedded(tmp_path):
    text = "problem: {use: language_modeling, corpus: python_docs}\nupdate_rule: {learning_rate: 1}\ntrain: {steps: 1}"
    with pytest.raises(SpecError, match=r"1:43: problem\.corpus: there is no folder .*python_docs(.|\n)*'python-docs'"):
        plan_of(text, folder=tmp_path)


def test_swept_folders_of_data_are_each_looked_for(tmp_path):
    (tmp_path / "a").mkdir()
    write_texts(tmp_path / "a")
    document = BASE | {"problem": LANGUAGE, "sweep": {"grid": {"problem.corpus": ["a", "python-docs", "b"]}}}
    with pytest.raises(SpecError, match=r"grid\.problem\.corpus\[2\]: there is no folder"):
        plan_of(document, folder=tmp_path)


def test_folders_that_lack_a_file_are_an_error_before_anything_starts(tmp_path):
    (tmp_path / "text").mkdir()
    write_texts(tmp_path / "text")
    document = BASE | {"problem": LANGUAGE | {"corpus": "text"}}
    assert len(plan_of(document, folder=tmp_path).trials) == 1
    (tmp_path / "text" / "valid.txt").unlink()
    with pytest.raises(SpecError, match=r"corpus: .*text: no valid text(.|\n)*looked for ptb\.valid\.txt, valid\.txt"):
        plan_of(document, folder=tmp_path)
    (tmp_path / "text" / "data_batch_1.bin").touch()
    with pytest.raises(SpecError, match=r"dataset: .*text: no CIFAR-10 files(.|\n)*looked for .* and test_batch\.bin"):
        plan_of(BASE | {"problem": IMAGES | {"dataset": "text"}}, folder=tmp_path)
    (tmp_path / "text" / "test_batch.bin").touch()
    assert len(plan_of(BASE | {"problem": IMAGES | {"dataset": "text"}}, folder=tmp_path).trials) == 1


@pytest.fixture
def cached_ptb(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSWEEP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "data" / "ptb"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / f"ptb.{split}.txt").touch()
    return folder


def test_published_data_goes_by_its_name_in_ids_and_to_the_workers(cached_ptb, tmp_path):
    document = BASE | {"problem": LANGUAGE | {"corpus": "ptb"}}
    (trial,) = plan_of(document, folder=tmp_path).trials
    assert trial.problem["corpus"] == "ptb"
    (tmp_path / "ptb").mkdir()
    write_texts(tmp_path / "ptb")
    (own,) = plan_of(BASE | {"problem": LANGUAGE | {"corpus": "./ptb"}}, folder=tmp_path).trials
    assert own.problem["corpus"] == str(tmp_path / "ptb")
    assert own.trial_id != trial.trial_id


def test_published_data_that_is_not_here_is_an_error_that_says_how_to_fetch_it(cached_ptb, tmp_path):
    (cached_ptb / "ptb.test.txt").unlink()
    document = BASE | {"problem": LANGUAGE | {"corpus": "ptb"}}
    with pytest.raises(SpecError, match=r"corpus: 'ptb' is not on this machine(.|\n)*clipsweep data fetch ptb"):
        plan_of(document, folder=tmp_path)
    # A name is that of a corpus or of a dataset.
    with pytest.raises(SpecError, match="there is no folder"):
        plan_of(BASE | {"problem": IMAGES | {"dataset": "ptb"}}, folder=tmp_path)


def test_a_schedule_without_a_warm_up_has_the_id_that_it_had_before_there_were_any():
    written = with_value(BASE, ("update_rule", "schedule", "warmup"), 0.0)
    silent = copy.deepcopy(BASE)
    del silent["update_rule"]["schedule"]["warmup"]
    assert id_of(written) == id_of(silent)
    assert arm_of(plan_of(written).trials[0].update_rule) == "sgd(momentum) + clip_norm + step_decay"
    warm = with_value(BASE, ("update_rule", "schedule"), {"use": "constant", "warmup": 3})
    assert plan_of(warm).arms == ("sgd(momentum) + clip_norm + warmup",)


def test_lion_has_the_decay_rates_of_its_paper_unless_they_are_given():
    lion = BASE | {"update_rule": {"optimizer": "lion", "learning_rate": 1.0}}
    assert plan_of(lion).trials[0].update_rule["betas"] == [0.9, 0.99]
    given_betas = with_value(lion, ("update_rule", "betas"), [0.9, 0.999])
    assert plan_of(given_betas).trials[0].update_rule["betas"] == [0.9, 0.999]
    swept = lion | {"sweep": {"grid": {"update_rule.optimizer": ["lion", "adam"]}}}
    assert [trial.update_rule["betas"] for trial in plan_of(swept).trials] == [[0.9, 0.99], [0.9, 0.999]]


def test_a_trial_that_accumulates_is_as_much_work_as_its_batches():
    def work(**train: int) -> list[float]:
        sweep = loads_spec(json.dumps(BASE | {"problem": problem, "train": train}), folder=Path(__file__).parent)
        return list(expected(sweep, expand(sweep), RunState(), num_left=1).work.values())

    problem = LANGUAGE | {"evaluate_fraction": 1e-9}
    (once,), (thrice,), (longer,) = work(steps=5000), work(steps=5000, accumulate=3), work(steps=15000)
    assert once < thrice
    assert thrice == pytest.approx(longer)


def test_muon_has_the_momentum_of_torch_unless_it_is_given():
    rule = {"optimizer": "muon", "learning_rate": 0.02, "rest": {"learning_rate": 3e-4}}

    def of(**options: Any) -> tuple[float, bool]:
        section = plan_of(BASE | {"update_rule": rule | options}).trials[0].update_rule
        return section["momentum"], section["nesterov"]

    assert (of(), of(momentum=0.8), of(momentum=0), of(nesterov=False)) == (
        (0.95, True),
        (0.8, True),
        (0.0, False),
        (0.95, False),
    )
