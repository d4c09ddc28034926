"""Calls a user's step on the synthetic model, on one rank, and looks at what it does."""

from __future__ import annotations

import functools
import inspect
import linecache
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.clip_audit.cases import Call, Case, Outcome, Seen, Spot
from trainers.clip_audit.layout import SIZE, TENSORS, LinearLoss, flattened, parameter_groups
from trainers.errors import TrainerError

__all__ = ["play", "require_signature", "spot_of", "watch_clips"]

_CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_")
_OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=0.0),
}
_INSTALLED = {"site-packages", "dist-packages"}
_OURS = tuple(Path(__file__).parents[2] / name for name in ("sweeper", "trainers", "estimators"))


@dataclass(kw_only=True)
class _Notes:
    """What has been seen of the call that is under way."""

    factors: list[float] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    rate: np.ndarray = field(default_factory=lambda: np.full(SIZE, math.nan))
    calls: list[Call] = field(default_factory=list)


_notes = _Notes()
"""Of this process's one audited step."""


def require_signature(function: Any, what: str, names: tuple[str, ...]) -> None:
    """Refuse a function that cannot be called with these arguments.

    Args:
        function: What the user has written.
        what: What it is called.
        names: What it is given, in order.

    Raises:
        TrainerError: It is not a function, or takes other arguments.
    """
    wanted = f"{what}({', '.join(names)})"
    if not callable(function):
        raise TrainerError(f"{what} is {type(function).__name__} {function!r:.60}, not a function: write {wanted}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*names)
    except TypeError as error:
        raise TrainerError(f"{what}{signature} cannot be called as {wanted}: {error}") from None


# torch's functions that clip


def watch_clips(folder: Path) -> None:
    """From now on, calls of torch's functions that clip are noted. They do what they did.

    Args:
        folder: Where the user's code is; its innermost line is noted as well.
    """
    for module in (torch.nn.utils, torch.nn.utils.clip_grad):
        for name in _CLIPS:
            function = getattr(module, name, None)
            if function is not None and not hasattr(function, "clipsweep"):
                setattr(module, name, _noted(function, name, folder))


def _noted(function: Callable[..., Any], name: str, folder: Path) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(parameters: Tensor | Iterable[Tensor], *values: Any, **options: Any) -> Any:
        given = parameters
        tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if not isinstance(parameters, Tensor | list | tuple) and tensors:
            given = tensors
        threshold = values[0] if values else options.get("max_norm", options.get("clip_value", math.nan))
        order = float(options.get("norm_type", values[1] if len(values) > 1 else 2.0)) if "norm_" in name else math.inf
        caller = sys._getframe(1)
        # torch calls some of them from others.
        if caller.f_globals.get("__name__") != function.__module__:
            _notes.calls.append(
                Call(
                    function=name,
                    threshold=float(threshold),
                    order=order,
                    num_tensors=sum(tensor.grad is not None for tensor in tensors),
                    num_given=len(tensors),
                    backwards=sum(factor != 0 for factor in _notes.factors),
                    updates=len(_notes.rates),
                    spot=_innermost(caller, folder),
                )
            )
        return function(given, *values, **options)

    call.clipsweep = True  # type: ignore[attr-defined]
    return call


def _is_own(file: str, folder: Path) -> bool:
    path = Path(file)
    if any(path.is_relative_to(ours) for ours in _OURS):
        return False
    return path.is_relative_to(folder) and not _INSTALLED & set(path.relative_to(folder).parts)


def _innermost(frame: Any, folder: Path) -> Spot | None:
    """The innermost line of the user's that a frame was called from."""
    while frame is not None:
        if _is_own(frame.f_code.co_filename, folder):
            file, number = frame.f_code.co_filename, frame.f_lineno
            code = linecache.getline(file, number).strip()[:120]
            return Spot(file=file, number=number, function=frame.f_code.co_name, code=code)
        frame = frame.f_back
    return None


def spot_of(frame: Any, folder: Path) -> Spot | None:
    """The user's line that a thread is in.

    Args:
        frame: The thread's.
        folder: Where the user's code is.

    Returns:
        The innermost one; None where there is none.
    """
    return _innermost(frame, folder)


def _raised_at(error: BaseException, folder: Path) -> Spot | None:
    found, trace = None, error.__traceback__
    while trace is not None:
        if _is_own(trace.tb_frame.f_code.co_filename, folder):
            file, number = trace.tb_frame.f_code.co_filename, trace.tb_lineno
            code = linecache.getline(file, number).strip()[:120]
            found = Spot(file=file, number=number, function=trace.tb_frame.f_code.co_name, code=code)
        trace = trace.tb_next
    return found


# The step


def play(
    case: Case,
    step: Callable[..., Any],
    prepare: Callable[..., Any] | None,
    *,
    rank: int,
    ranks: int,
    folder: Path,
    words: Callable[[BaseException], str],
) -> Outcome:
    """Play a case on this rank.

    Args:
        case: What is done.
        step: ``step(model, optimizer, micro_batches)``.
        prepare: ``prepare(model, make_optimizer)``, which returns both; None for the audit's own way.
        rank: This rank.
        ranks: Number of ranks; where there are several, ``torch.distributed`` is initialised.
        folder: Where the user's code is.
        words: An exception in a line.

    Returns:
        What it did. What user code raises is in it, exits too.

    Raises:
        TrainerError: ``prepare`` returns something that the audit cannot read.
    """
    bare = LinearLoss(frozen=case.frozen)
    bare.told_forward = _told_forward
    made: list[torch.optim.Optimizer] = []

    def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(_OPTIMIZERS[case.optimizer](parameters, lr=1.0))
        return made[-1]

    try:
        if prepare is not None:
            model, optimizer = _both(prepare(bare, make_optimizer))
        else:
            model = nn.parallel.DistributedDataParallel(bare) if ranks > 1 else bare
            optimizer = make_optimizer(parameter_groups(bare))
    except TrainerError:
        raise
    except BaseException as error:
        return Outcome(raised=words(error), spot=_raised_at(error, folder))
    optimizers = made or [optimizer]
    _require_readable(bare)
    facts = _facts(optimizers[0], bare, is_ours=bool(made))
    seen: list[Seen] = []
    process = os.getpid()
    with _updates_noted(optimizers, bare):
        for gradients in case.steps:
            before, held = _weights(bare, rank=rank, ranks=ranks)
            _notes.factors, _notes.rates, _notes.calls = [], [], []
            _notes.rate = np.full(SIZE, math.nan)
            batches = [torch.tensor(one, dtype=torch.float32) for one in gradients[rank]]
            try:
                step(model, optimizer, batches)
            except BaseException as error:  # an exit, too, is what the step did
                _end_if_forked(process)
                return Outcome(seen=seen, raised=words(error), spot=_raised_at(error, folder), facts=facts)
            _end_if_forked(process)
            after, _ = _weights(bare, rank=rank, ranks=ranks)
            with np.errstate(invalid="ignore"):
                moved = after - before
            seen.append(
                Seen(
                    moved=moved,
                    held=held,
                    factors=tuple(_notes.factors),
                    rates=tuple(map(tuple, _notes.rates)),
                    rate=_rates(_notes),
                    calls=tuple(_notes.calls),
                )
            )
    return Outcome(seen=seen, facts=facts)


def _end_if_forked(process: int) -> None:
    """A step may fork; if its child comes back from it, too, that one must not go on."""
    if os.getpid() != process:
        os._exit(0)


def _both(prepared: Any) -> tuple[Any, Any]:
    if not (isinstance(prepared, tuple | list) and len(prepared) == 2):
        raise TrainerError(f"prepare must return (model, optimizer), not {type(prepared).__name__}")
    model, optimizer = prepared
    if not callable(model) or not hasattr(optimizer, "step"):
        found = f"({type(model).__name__}, {type(optimizer).__name__})"
        raise TrainerError(f"prepare must return (model, optimizer), in this order, not {found}")
    return model, optimizer


def _require_readable(bare: nn.Module) -> None:
    found = {name.replace("_fsdp_wrapped_module.", ""): parameter for name, parameter in bare.named_parameters()}
    for place in TENSORS:
        if (parameter := found.get(place.name)) is None or tuple(parameter.shape) != place.shape:
            raise TrainerError(
                f"after prepare the model no longer has {place.name!r} of shape {place.shape}, so its weights "
                "cannot be read: wrap it with DistributedDataParallel or fully_shard, which keep its parameters apart"
            )


def _told_forward() -> Callable[[float], None]:
    notes, at = _notes, len(_notes.factors)
    factors = notes.factors
    factors.append(0.0)

    def told(factor: float) -> None:
        if at < len(factors):
            factors[at] += factor

    return told


@contextmanager
def _updates_noted(optimizers: Iterable[Any], bare: nn.Module) -> Iterator[None]:
    places = {id(parameter): place for place, parameter in zip(TENSORS, bare.parameters(), strict=True)}

    def noted(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        _notes.rates.append([float(group["lr"]) for group in optimizer.param_groups])
        for group in optimizer.param_groups:
            for place in (places[id(one)] for one in group["params"] if id(one) in places):
                if np.isnan(_notes.rate[place.start]):
                    _notes.rate[place.slice] = float(group["lr"])

    handles = [one.register_step_pre_hook(noted) for one in optimizers if hasattr(one, "register_step_pre_hook")]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rates(notes: _Notes) -> np.ndarray:
    """Of every weight; that of the first group for one that is in no group, as a copy of it may be."""
    first = notes.rates[0][0] if notes.rates and notes.rates[0] and notes.rates[0][0] > 0 else 1.0
    return np.where(notes.rate > 0, notes.rate, first)


def _facts(optimizer: Any, bare: nn.Module, *, is_ours: bool) -> dict[str, Any]:
    inner = getattr(optimizer, "optimizer", optimizer)
    groups = getattr(inner, "param_groups", [])
    epsilons = [torch.finfo(parameter.dtype).eps for parameter in bare.parameters()]
    return {
        "ours": is_ours,
        "kind": type(inner).__name__,
        "momentum": max((float(group.get("momentum") or 0) for group in groups), default=0.0),
        "weight_decay": max((float(group.get("weight_decay") or 0) for group in groups), default=0.0),
        "epsilon": max(epsilons),
    }


def _weights(bare: nn.Module, *, rank: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """All weights, 0 where another rank holds them, and which this one holds."""
    if not any(hasattr(parameter, "to_local") for parameter in bare.parameters()):
        return flattened(bare), np.ones(SIZE, dtype=bool)
    values, held = np.zeros(SIZE), np.zeros(SIZE, dtype=bool)
    for place, parameter in zip(TENSORS, bare.parameters(), strict=True):
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        rows = place.shape[0]
        each = math.ceil(rows / ranks) if local.shape[0] != rows else 0
        width = place.size // rows
        start = place.start + min(rank * each, rows) * width
        values[start : start + local.numel()] = local.detach().double().flatten().numpy()
        held[start : start + local.numel()] = True
    return values, held
