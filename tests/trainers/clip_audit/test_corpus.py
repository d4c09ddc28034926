"""Known public mistakes with gradient clipping are diagnosed exactly, and correct steps pass."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sweeper.audit_clip import audit_step
from trainers.clip_audit.answers import QUESTIONS, Answer
from trainers.clip_audit.audit import audit
from trainers.clip_audit.cases import Case, Outcome
from trainers.clip_audit.play import play, watch_clips

CORPUS = Path(__file__).parents[2] / "clip_audit_corpus"
STEPS = sorted(path.stem for path in CORPUS.glob("*.py"))

ALWAYS = {("inf", "note"), ("NaN", "note"), ("Adam, all", "note")}
"""What torch's own clip does in a plain loop, and no step of the corpus is about."""


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """A module of the corpus, imported when calls of torch's clips are noted."""
    patch = pytest.MonkeyPatch()
    import torch

    for module in (torch.nn.utils, torch.nn.utils.clip_grad):
        for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_"):
            if hasattr(module, name):
                patch.setattr(module, name, getattr(module, name))
    watch_clips(CORPUS)

    def loaded(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, CORPUS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield loaded
    patch.undo()


def answers_of(name: str, module: ModuleType) -> list[Answer]:
    if module.RANKS == 2:
        audited = audit_step(f"{name}:train_step", folder=CORPUS, ranks=(2,), timeout_s=10)
        return [one.answer for one in audited]

    def here(case: Case) -> list[Outcome]:
        step: Any = module.train_step
        return [play(case, step, None, rank=0, ranks=1, folder=CORPUS, words=str)]

    return list(audit(here, ranks=1))


@pytest.mark.filterwarnings("ignore:`parameters` is an empty generator")
@pytest.mark.parametrize("name", STEPS)
def test_the_diagnosis_is_that_of_the_corpus_and_nothing_else_is_found(
    name: str, load: Callable[[str], ModuleType]
) -> None:
    module = load(name)
    answers = answers_of(name, module)
    unusual = {
        answer.question: (answer.verdict, answer.key)
        for answer in answers
        if answer.verdict != "ok"
        and (answer.question in module.DIAGNOSIS or (answer.question, answer.verdict) not in ALWAYS)
    }
    assert unusual == module.DIAGNOSIS
    assert [answer.question for answer in answers] == [one for one in QUESTIONS if one in {a.question for a in answers}]
    for answer in answers:
        assert answer.found
        assert answer.fix or answer.verdict != "finding"


def test_every_mistake_of_the_corpus_names_its_source_and_there_are_correct_steps(
    load: Callable[[str], ModuleType],
) -> None:
    modules = {name: load(name) for name in STEPS}
    assert all(bool(module.SOURCE) == bool(module.DIAGNOSIS) for module in modules.values())
    assert sum(not module.DIAGNOSIS for module in modules.values()) >= 5
    assert len(modules) >= 25
