"""Whatever user code can change for its process is put back entry by entry, and holds again while that code runs."""

from __future__ import annotations

import builtins
import copy
import decimal
import functools
import gc
import importlib.machinery
import io
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import sysconfig
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sweeper.workers.process_state import STATE, OwnState
from sweeper.workers.torch_state import flushes_denormals

ENTRIES = {entry.name: entry for entry in STATE}


class _FunctionMode(TorchFunctionMode):
    pass


class _DispatchMode(TorchDispatchMode):
    pass


def flip(owner: Any, attribute: str) -> Callable[[], None]:
    return lambda: setattr(owner, attribute, not getattr(owner, attribute))


def flip_kernel(kernel: str) -> Callable[[], None]:
    def change() -> None:
        getattr(torch._C, f"_set_sdp_use_{kernel}")(not getattr(torch._C, f"_get_{kernel}_sdp_enabled")())

    return change


def other_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if soft else 1, hard))


def other_locale() -> None:
    locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) != "C.UTF-8" else "C")


def autocast(device: str) -> Callable[[], None]:
    return lambda: torch.set_autocast_dtype(device, torch.float16)


def not_a_generator(*_: Any) -> Any:
    """Stands for whatever user code replaces something by."""


_left: list[Any] = []
"""Contexts that were entered; forgotten, they would end."""

CHANGES: dict[str, Callable[[], object]] = {
    "a function mode that was entered and not left": lambda: _FunctionMode().__enter__(),
    "a dispatch mode that was entered and not left": lambda: _DispatchMode().__enter__(),
    "hooks of saved tensors that were entered and not left": lambda: torch.autograd.graph.saved_tensors_hooks(
        lambda x: x, lambda x: x
    ).__enter__(),
    "the default device": lambda: torch.set_default_device("meta"),
    "inference mode": lambda: _left.append(torch.inference_mode()) or _left[-1].__enter__(),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "filling of new tensors": flip(torch.utils.deterministic, "fill_uninitialized_memory"),
    "anomaly mode": lambda: torch.set_anomaly_enabled(True, False),
    "threads of autograd": lambda: torch.autograd.set_multithreading_enabled(False),
    "autocast on cpu": autocast("cpu"),
    "autocast on cuda": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "autocast's cache": lambda: torch.set_autocast_cache_enabled(not torch.is_autocast_cache_enabled()),
    "flushing of denormals": lambda: torch.set_flush_denormal(True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "the precision of float32": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn.enabled": flip(torch.backends.cudnn, "enabled"),
    "cudnn.benchmark": flip(torch.backends.cudnn, "benchmark"),
    "cudnn.deterministic": flip(torch.backends.cudnn, "deterministic"),
    "cuda.matmul.allow_fp16_reduced_precision_reduction": flip(
        torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"
    ),
    "cuda.matmul.allow_bf16_reduced_precision_reduction": flip(
        torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"
    ),
    "cuda.matmul.allow_fp16_accumulation": flip(torch.backends.cuda.matmul, "allow_fp16_accumulation"),
    "mkldnn.enabled": flip(torch.backends.mkldnn, "enabled"),
    "mkldnn.deterministic": flip(torch.backends.mkldnn, "deterministic"),
    "opt_einsum": lambda: setattr(torch.backends.opt_einsum, "strategy", "greedy"),
    "nnpack": lambda: torch.backends.nnpack.set_flags(not torch._C._get_nnpack_enabled()),
    "the fast path of attention": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "the flash kernel of attention": flip_kernel("flash"),
    "the mem_efficient kernel of attention": flip_kernel("mem_efficient"),
    "the math kernel of attention": flip_kernel("math"),
    "the cudnn kernel of attention": flip_kernel("cudnn"),
    "the overrideable kernel of attention": flip_kernel("overrideable"),
    "the order of attention's kernels": lambda: torch._C._set_sdp_priority_order(
        torch._C._get_sdp_priority_order()[::-1]
    ),
    "reductions of attention": lambda: torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True),
    "torch.set_warn_always": lambda: torch.set_warn_always(not torch.is_warn_always_enabled()),
    "torch.set_printoptions": lambda: torch.set_printoptions(precision=11, sci_mode=True),
    "how modules are converted": lambda: torch.__future__.set_overwrite_module_params_on_conversion(True),
    "how parameters are swapped": lambda: torch.__future__.set_swap_module_params_on_conversion(True),
    "hooks of all modules": lambda: nn.modules.module.register_module_forward_hook(not_a_generator),
    "torch's generator": lambda: torch.manual_seed(1234567),
    "a layer of torch": lambda: setattr(nn.Linear, "forward", not_a_generator),
    "torch's functions": lambda: setattr(nn.functional, "gelu", not_a_generator),
    "sys.settrace": lambda: sys.settrace(not_a_generator),
    "sys.setprofile": lambda: sys.setprofile(not_a_generator),
    "sys.stdout and stderr": lambda: setattr(sys, "stdout", io.StringIO()),
    "sys.excepthook": lambda: setattr(sys, "excepthook", not_a_generator),
    "threading.excepthook": lambda: setattr(threading, "excepthook", not_a_generator),
    "threading.settrace": lambda: threading.settrace(not_a_generator),
    "threading.setprofile": lambda: threading.setprofile(not_a_generator),
    "the recursion limit": lambda: sys.setrecursionlimit(4321),
    "the switch interval": lambda: sys.setswitchinterval(0.02),
    "the limit of digits": lambda: sys.set_int_max_str_digits(5000),
    "garbage collection": gc.disable,
    "the thresholds of gc": lambda: gc.set_threshold(123, 4, 5),
    "the working directory": lambda: os.chdir("/"),
    "os.environ": lambda: os.environ.update(CLIPSWEEP_OFFENDER="1", TZ="Asia/Tokyo"),
    "the umask": lambda: os.umask(0o123),
    "signal handlers": lambda: signal.signal(signal.SIGUSR1, not_a_generator),
    "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]),
    "the alarm": lambda: signal.alarm(1000),
    "limits of resources": other_limit,
    "the processor affinity": lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:-1]),
    "the socket timeout": lambda: socket.setdefaulttimeout(12.5),
    "the locale": other_locale,
    "the decimal context": lambda: setattr(decimal.getcontext(), "prec", 7),
    "multiprocessing's start method": lambda: multiprocessing.set_start_method("forkserver", force=True),
    "warnings.filters": lambda: warnings.simplefilter("ignore"),
    "warnings.showwarning": lambda: setattr(warnings, "showwarning", not_a_generator),
    "the root logger": lambda: logging.disable(logging.ERROR),
    "np.seterr": lambda: np.seterr(all="raise"),
    "np.seterrcall": lambda: np.seterrcall(not_a_generator),
    "np.set_printoptions": lambda: np.set_printoptions(precision=3),
    "Python's generator": lambda: random.seed(5),
    "NumPy's generator": lambda: np.random.seed(5),
    "sys.path": lambda: sys.path.insert(0, "/nowhere"),
    "sys.meta_path": lambda: sys.meta_path.insert(0, importlib.machinery.BuiltinImporter),
    "sys.path_hooks": lambda: sys.path_hooks.insert(0, not_a_generator),
    "Python's or NumPy's functions": lambda: setattr(builtins, "round", not_a_generator),
}
"""Something that changes each entry."""

NOT_HERE = {
    "threads between operations": "can be set once in a process, before torch has done anything",
    "the CUDA device and its generator": "needs a GPU",
    "cudnn.benchmark_limit": "needs a torch with CUDA",
    "the engine of quantised layers": "has one engine on some processors",
    "the library of linalg": "needs a torch with CUDA",
    "the library of blas": "needs a torch with CUDA",
    "the fa3 kernel of attention": "is set by a library that torch does not come with",
}


@pytest.fixture
def own() -> Iterator[OwnState]:
    """A trial's state; what a failing test leaves is put back."""
    outside = [(entry, entry.read()) for entry in STATE]
    finders, hooks = list(sys.meta_path), list(sys.path_hooks)
    yield OwnState()
    sys.meta_path[:], sys.path_hooks[:] = finders, hooks
    sys.path_importer_cache.clear()
    for entry, before in outside:
        if entry.write is not None and not entry.same(before, entry.read()):
            entry.write(before)


def test_every_entry_has_something_that_changes_it_or_a_reason_why_not() -> None:
    assert CHANGES.keys() | NOT_HERE.keys() >= ENTRIES.keys()
    assert not CHANGES.keys() & NOT_HERE.keys()
    assert len(ENTRIES) == len(STATE) > 70


@pytest.mark.parametrize("name", [name for name in CHANGES if name in ENTRIES])
def test_what_is_changed_is_put_back_and_holds_again_when_the_trial_goes_on(name: str, own: OwnState) -> None:
    if name == "the processor affinity" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one core")
    entry = ENTRIES[name]
    before = entry.read()
    with own.whole(), own.in_force():
        CHANGES[name]()
        changed = entry.read()
    assert not entry.same(before, changed), "the table sees no change"
    if entry.write is not None:
        assert entry.same(before, entry.read())
        with own.whole(), own.in_force():
            if name != "the alarm":  # whose rest runs down
                assert entry.same(changed, entry.read())
        assert entry.same(before, entry.read())
    assert (own.left_behind is not None) == entry.traces


def test_flushing_of_denormals_is_told_by_a_number_that_it_flushes() -> None:
    assert not flushes_denormals()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    try:
        assert flushes_denormals()
    finally:
        torch.set_flush_denormal(False)


def test_a_fresh_trial_starts_from_the_workers_state_whatever_another_has_set(own: OwnState) -> None:
    with own.whole(), own.in_force():
        torch.set_default_dtype(torch.float64)
        torch.backends.cudnn.allow_tf32 = False
    other = OwnState()
    with other.whole(), other.in_force():
        assert torch.get_default_dtype() == torch.float32
        assert torch.backends.cudnn.allow_tf32


def test_the_newer_settings_of_float32_are_put_back_too(own: OwnState) -> None:
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has only the older ones")
    before = ENTRIES["the precision of float32"].read()
    with own.whole(), own.in_force():
        torch.backends.fp32_precision = "tf32"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    assert ENTRIES["the precision of float32"].read() == before
    with own.whole(), own.in_force():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert ENTRIES["the precision of float32"].read() == before
    assert torch.get_float32_matmul_precision() == "highest"


def test_pieces_of_two_trials_may_alternate(own: OwnState) -> None:
    def steps(dtype: torch.dtype) -> Iterator[torch.dtype]:
        torch.set_default_dtype(dtype)
        for _ in range(3):
            yield torch.get_default_dtype()

    one = own.pieces(steps(torch.float64), is_last=lambda item: False)  # type: ignore[arg-type]
    other = OwnState().pieces(steps(torch.bfloat16), is_last=lambda item: False)  # type: ignore[arg-type]
    for _ in range(3):
        assert next(one) == torch.float64
        assert torch.get_default_dtype() == torch.float32
        assert next(other) == torch.bfloat16
        assert torch.get_default_dtype() == torch.float32
    assert list(one) == list(other) == []


def test_what_is_raised_passes_and_what_it_had_changed_is_put_back(own: OwnState) -> None:
    def step() -> Iterator[int]:
        torch.set_grad_enabled(False)
        yield 0
        raise KeyboardInterrupt

    pieces = own.pieces(step(), is_last=lambda item: False)  # type: ignore[arg-type]
    assert next(pieces) == 0
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
    assert torch.is_grad_enabled()


def test_a_generator_that_is_not_read_to_its_end_is_closed_with_its_own_state(own: OwnState) -> None:
    seen = []

    def step() -> Iterator[int]:
        torch.set_default_dtype(torch.float64)
        try:
            yield 0
        finally:
            seen.append(torch.get_default_dtype())

    pieces = own.pieces(step(), is_last=lambda item: False)  # type: ignore[arg-type]
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert seen == [torch.float64]
    assert torch.get_default_dtype() == torch.float32


def test_what_an_import_sets_holds_for_every_trial_of_the_module_and_leaves_no_worker_spoiled(own: OwnState) -> None:
    module = types.ModuleType("own")
    times = []

    def load() -> types.ModuleType:
        if not times:
            torch.set_default_dtype(torch.float64)
            nn.functional.gelu = not_a_generator  # type: ignore[assignment]
        times.append(1)
        return module

    gelu = nn.functional.gelu
    own.load(load)
    second = OwnState()
    second.load(load)
    for trial in (own, second):
        with trial.whole(), trial.in_force():
            assert torch.get_default_dtype() == torch.float64
            assert nn.functional.gelu is not_a_generator
        assert nn.functional.gelu is gelu
        assert trial.left_behind is None


def test_a_thread_of_the_trials_that_goes_on_is_left_behind_and_a_librarys_is_not(own: OwnState) -> None:
    end = threading.Event()
    library: dict[str, Any] = {"end": end}
    exec(compile("def watch(): end.wait()", f"{sysconfig.get_paths()['purelib']}/bars/monitor.py", "exec"), library)
    with own.whole(), own.in_force():
        threading.Thread(target=lambda: time.sleep(0.05)).start()
        threading.Thread(target=library["watch"]).start()
    assert own.left_behind is None
    # Whoever starts a thread from a thread of Ray's starts a daemon, asked or not.
    with own.whole(), own.in_force():
        threading.Thread(target=end.wait, name="loader", daemon=True).start()
        threading.Thread(target=end.wait, name="other").start()
    assert own.left_behind == "a thread that goes on (loader); a thread that goes on (other)"
    end.set()


def test_what_cannot_be_put_back_after_all_is_left_behind(own: OwnState) -> None:
    def refuse(handler: Any) -> None:
        raise OSError("not today")

    timeout = ENTRIES["the socket timeout"]
    put_back = timeout.write
    object.__setattr__(timeout, "write", refuse)
    with own.whole(), own.in_force():
        socket.setdefaulttimeout(3)
    object.__setattr__(timeout, "write", put_back)
    assert own.left_behind == "the socket timeout (OSError: not today)"


def test_a_library_that_wraps_its_own_function_has_patched_nothing(own: OwnState) -> None:
    # As torch does when it imports its compiler, which it may for many a reason.
    with own.whole(), own.in_force():
        torch.use_deterministic_algorithms(True)
    assert own.left_behind is None
    relu = nn.functional.relu
    with own.whole(), own.in_force():
        nn.functional.relu = functools.wraps(relu)(lambda *args: relu(*args))  # type: ignore[assignment]
    assert own.left_behind == "torch.nn.functional.relu"
    assert nn.functional.relu is relu


def test_a_folder_that_is_gone_is_no_obstacle(own: OwnState, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    here = os.getcwd()
    with own.whole(), own.in_force():
        os.chdir(gone)
        gone.rmdir()
    assert os.getcwd() == here
    assert own.left_behind is None


# Code and data of the user's own

MINE = """
import functools
from torch import nn

_data, _cache, scale = None, {}, 1.0

def data():
    global _data
    if _data is None:
        _data = [1.0]
    _cache["data"] = _data
    return _data

@functools.lru_cache
def cached(x):
    return x

def activation(x):
    return x

class Layer(nn.Module):
    kept = None

    def forward(self, x):
        return activation(x)

    @staticmethod
    def helper():
        return 1

class Quiet(Layer):
    pass
"""

REPLACED: dict[str, Callable[[Any], object]] = {
    "Layer.forward": lambda mine: setattr(mine.Layer, "forward", lambda self, x: 2 * x),
    "Layer.helper": lambda mine: setattr(mine.Layer, "helper", staticmethod(lambda: 2)),
    "Quiet.forward": lambda mine: setattr(mine.Quiet, "forward", lambda self, x: 2 * x),
    "activation": lambda mine: setattr(mine, "activation", torch.tanh),
    "Layer": lambda mine: setattr(mine, "Layer", type("Layer", (nn.Module,), {})),
}

KEPT: dict[str, Callable[[Any], object]] = {
    "a lazy global": lambda mine: mine.data(),
    "a cache": lambda mine: mine.cached(1),
    "a number": lambda mine: setattr(mine, "scale", 7.0),
    "data on a class": lambda mine: setattr(mine.Layer, "kept", [1]),
    "a new function": lambda mine: setattr(mine, "made", lambda: 1),
    "a copied layer": lambda mine: copy.deepcopy([mine.Layer(), nn.Linear(1, 1)]),
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of the user's own, with another beside it that it does not import at the top."""
    (tmp_path / "mine_alone.py").write_text(MINE)
    (tmp_path / "mine_beside.py").write_text("def helper(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("mine_beside")
    yield lambda: importlib.import_module("mine_alone")
    for name in ("mine_alone", "mine_beside"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", REPLACED)
def test_code_of_the_users_own_that_a_trial_replaces_is_put_back_and_ends_the_worker(
    name: str, own: OwnState, mine: Callable[[], Any]
) -> None:
    own.load(mine)
    module = mine()
    forward, activation = module.Quiet.forward, module.activation
    with own.whole(), own.in_force():
        REPLACED[name](module)
    assert own.left_behind == f"mine_alone.{name}"
    assert (module.Quiet.forward, module.activation) == (forward, activation)
    assert module.Layer.helper() == 1
    assert "forward" not in vars(module.Quiet)


def test_a_module_in_the_same_folder_is_watched_too(own: OwnState, mine: Callable[[], Any]) -> None:
    own.load(mine)
    beside = sys.modules["mine_beside"]
    with own.whole(), own.in_force():
        beside.helper = lambda: 2  # type: ignore[attr-defined]
        assert beside.helper() == 2
    assert beside.helper() == 1
    assert own.left_behind == "mine_beside.helper"


@pytest.mark.parametrize("name", KEPT)
def test_data_that_a_module_loads_when_it_is_asked_for_stays_and_ends_no_worker(
    name: str, own: OwnState, mine: Callable[[], Any]
) -> None:
    own.load(mine)
    with own.whole(), own.in_force():
        KEPT[name](mine())
    assert own.left_behind is None
    if name == "a lazy global":
        assert mine()._data == [1.0]
        assert mine()._cache == {"data": [1.0]}


LAYERS: dict[str, Callable[[], object]] = {
    "Linear.extra": lambda: setattr(nn.Linear, "extra", 2.0),
    "Linear.reset_parameters": lambda: setattr(nn.Linear, "reset_parameters", not_a_generator),
    "Tanh.__init__": lambda: setattr(nn.Tanh, "__init__", nn.Module.__init__),
    "Tanh.extra_repr": lambda: setattr(nn.Tanh, "extra_repr", not_a_generator),
    "Conv2d.forward": lambda: delattr(nn.Conv2d, "forward"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_whatever_is_added_to_a_layer_of_torch_or_replaced_in_it_is_put_back(name: str, own: OwnState) -> None:
    layer = getattr(nn, name.partition(".")[0])
    before = dict(vars(layer))
    with own.whole(), own.in_force():
        LAYERS[name]()
        assert dict(vars(layer)) != before
    if name == "Tanh.__init__":
        assert own.left_behind is None, "it is what it inherits"
    else:
        assert own.left_behind == f"torch.nn.{name}"
        assert dict(vars(layer)) == before
