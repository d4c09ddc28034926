"""What torch holds for a whole process, and user code may change: names, how to read it, how to set it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks_of_modules
from torch.optim import optimizer as hooks_of_optimizers
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from sweeper.workers.python_state import Entry, attributes, patched

__all__ = ["TORCH_STATE"]

# What the user has left on torch's stacks sees every call of torch, also ours: those come off first.


def _modes(kind: str, stack: Callable[[], list[Any]]) -> Entry:
    """A stack of modes that were entered; the default device is one, too, and has an entry of its own."""

    def read() -> list[Any]:
        default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        return [mode for mode in stack() if mode is not default]

    def write(wanted: list[Any]) -> None:
        while (now := read()) != wanted[: len(now)]:
            now[-1].__exit__(None, None, None)
        for mode in wanted[len(read()) :]:
            mode.__enter__()

    return Entry(name=f"a {kind} mode that was entered and not left", read=read, write=write, traces=True)


def _read_default_device() -> torch.device | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _read_tensor_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def _write_tensor_hooks(wanted: Any) -> None:
    autograd = torch._C._autograd
    while (now := _read_tensor_hooks()) is not None and now != wanted:
        autograd._pop_saved_tensors_default_hooks()
    if now != wanted:
        autograd._push_saved_tensors_default_hooks(*wanted)


# Tensors and their arithmetic


_FLOATS = {"cpu": "torch.FloatTensor", "cuda": "torch.cuda.FloatTensor"}


def _read_tensor_type() -> tuple[str, torch.dtype]:
    return torch._C._get_default_device(), torch.get_default_dtype()


def _write_tensor_type(wanted: tuple[str, torch.dtype]) -> None:
    kind, dtype = wanted
    if torch._C._get_default_device() != kind:
        torch._C._set_default_tensor_type(_FLOATS[kind])
    torch.set_default_dtype(dtype)


_guards: list[Any] = []
"""Torch has no way to end an inference mode but its own; a guard that is forgotten would bring the mode back."""


def _write_inference_mode(wanted: bool) -> None:
    guard = torch._C._InferenceMode(wanted)
    guard.__enter__()  # type: ignore[no-untyped-call]
    _guards.append(guard)


_BACKENDS = [(backend, part) for backend in ("cuda", "mkldnn") for part in ("all", "matmul", "conv", "rnn")]


def _read_precision() -> tuple[Any, ...]:
    def known(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except RuntimeError:
            return None  # the newer settings say what this older one cannot

    older = (
        known(torch._C._get_cudnn_allow_tf32),
        known(torch._C._get_cublas_allow_tf32),
        known(torch.get_float32_matmul_precision),
    )
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        return older
    read = torch._C._get_fp32_precision_getter
    return (*older, read("generic", "all"), *(read(*of) for of in _BACKENDS))


def _write_precision(wanted: tuple[Any, ...]) -> None:
    # Setting an older one sets newer ones, too, and setting one for all those of each, so the finest come last.
    cudnn, cublas, matmul, *newer = wanted
    for value, write in (
        (cudnn, torch._C._set_cudnn_allow_tf32),
        (cublas, torch._C._set_cublas_allow_tf32),
        (matmul, torch.set_float32_matmul_precision),
    ):
        if value is not None:
            write(value)
    if newer:
        for (backend, part), value in zip([("generic", "all"), *_BACKENDS], newer, strict=True):
            if torch._C._get_fp32_precision_getter(backend, part) != value:
                torch._C._set_fp32_precision_setter(backend, part, value)


def flushes_denormals() -> bool:
    """Whether numbers below the smallest normal one become zero in this thread; torch can set that, but not tell.

    Returns:
        Whether they do.
    """
    smallest = sys.float_info.min
    return smallest * 0.5 == 0.0


# Generators


def _read_cuda() -> tuple[Any, ...] | None:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return torch.cuda.current_device(), torch.cuda.get_rng_state().numpy().tobytes()


def _write_cuda(wanted: tuple[Any, ...] | None) -> None:
    if wanted is not None:
        device, state = wanted
        torch.cuda.set_device(device)
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _write_generator(wanted: bytes) -> None:
    torch.default_generator.set_state(torch.frombuffer(bytearray(wanted), dtype=torch.uint8))


# Hooks and functions


def _hooks() -> Entry:
    names = [name for name in vars(hooks_of_modules) if name.startswith("_global_") and name.endswith("hooks")]
    tables = [getattr(hooks_of_modules, name) for name in names]
    tables += [hooks_of_optimizers._global_optimizer_pre_hooks, hooks_of_optimizers._global_optimizer_post_hooks]

    def write(wanted: list[dict[int, Any]]) -> None:
        for table, held in zip(tables, wanted, strict=True):
            table.clear()
            table.update(held)

    return Entry(name="hooks of all modules", read=lambda: [dict(table) for table in tables], write=write)


def _layers() -> Entry:
    """What torch's layers are made of: attributes of the classes, whether replaced, added or removed."""
    layers = [layer for layer in vars(nn).values() if isinstance(layer, type) and "forward" in vars(layer)]
    tables = [vars(layer) for layer in layers]
    missing = object()

    def read() -> list[dict[str, Any]]:
        return [dict(table) for table in tables]

    def changes(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[tuple[type, str, Any]]:
        for layer, old, new in zip(layers, before, after, strict=True):
            if old == new:
                continue
            for key in sorted(old.keys() | new.keys()):
                value = old.get(key, missing)
                # Python notes of its own on a class, such as how it is copied, begin with two underscores.
                if value is not new.get(key, missing) and (callable(value) or not key.startswith("__")):
                    yield layer, key, value

    def write(wanted: list[dict[str, Any]]) -> None:
        for layer, key, value in list(changes(wanted, read())):
            if value is missing:
                type.__delattr__(layer, key)
            else:
                type.__setattr__(layer, key, value)

    return Entry(
        name="a layer of torch",
        read=read,
        write=write,
        traces=True,
        costly=True,
        same=lambda before, after: next(changes(before, after), None) is None,
        describe=lambda before, after: next(f"torch.nn.{one.__name__}.{key}" for one, key, _ in changes(before, after)),
    )


def _pair(name: str, getter: str, setter: str, *arguments: Any) -> Entry:
    """An entry of torch's own, by the names of two functions of ``torch._C``."""
    read, write = getattr(torch._C, getter), getattr(torch._C, setter)
    return Entry(name=name, read=lambda: read(*arguments), write=lambda value: write(*arguments, value))


def _autocast(device: str) -> Entry:
    def write(wanted: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, wanted[0])
        torch.set_autocast_dtype(device, wanted[1])

    return Entry(
        name=f"autocast on {device}",
        read=lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)),
        write=write,
    )


def _known(entries: Iterator[Callable[[], Entry]]) -> tuple[Entry, ...]:
    """Those that this release of torch has."""
    found = []
    for make in entries:
        try:
            entry = make()
            entry.read()
        except (AttributeError, RuntimeError):
            continue
        found.append(entry)
    return tuple(found)


def _entries() -> Iterator[Callable[[], Entry]]:
    cuda, backends = torch.backends.cuda, torch.backends
    yield lambda: _modes("function", _get_current_function_mode_stack)
    yield lambda: _modes("dispatch", _get_current_dispatch_mode_stack)
    yield lambda: Entry(
        name="hooks of saved tensors that were entered and not left",
        read=_read_tensor_hooks,
        write=_write_tensor_hooks,
        traces=True,
    )
    yield lambda: Entry(name="the default device", read=_read_default_device, write=torch.set_default_device)
    yield lambda: Entry(name="inference mode", read=torch.is_inference_mode_enabled, write=_write_inference_mode)
    yield lambda: Entry(name="grad mode", read=torch.is_grad_enabled, write=torch._C._set_grad_enabled)
    yield lambda: Entry(name="the default dtype", read=_read_tensor_type, write=_write_tensor_type)
    yield lambda: Entry(
        name="deterministic algorithms",
        read=torch.get_deterministic_debug_mode,
        write=torch.set_deterministic_debug_mode,
    )
    yield lambda: attributes("filling of new tensors", torch.utils.deterministic, "fill_uninitialized_memory")
    yield lambda: Entry(
        name="anomaly mode",
        read=lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        write=lambda both: torch.set_anomaly_enabled(*both),
    )
    yield lambda: _pair("threads of autograd", "_is_multithreading_enabled", "_set_multithreading_enabled")
    for device in ("cpu", "cuda"):
        yield partial(_autocast, device)
    yield lambda: Entry(
        name="autocast's cache", read=torch.is_autocast_cache_enabled, write=torch.set_autocast_cache_enabled
    )
    yield lambda: Entry(name="flushing of denormals", read=flushes_denormals, write=torch.set_flush_denormal)
    yield lambda: Entry(name="threads", read=torch.get_num_threads, write=torch.set_num_threads)
    yield lambda: Entry(name="threads between operations", read=torch.get_num_interop_threads, write=None, traces=True)
    yield lambda: Entry(name="the precision of float32", read=_read_precision, write=_write_precision)
    for attribute in ("enabled", "benchmark", "benchmark_limit", "deterministic"):
        yield partial(attributes, f"cudnn.{attribute}", backends.cudnn, attribute)
    for attribute in (
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    ):
        yield partial(attributes, f"cuda.matmul.{attribute}", cuda.matmul, attribute, costly=True)
    for attribute in ("enabled", "deterministic"):
        yield partial(attributes, f"mkldnn.{attribute}", backends.mkldnn, attribute)
    yield lambda: attributes("opt_einsum", backends.opt_einsum, "enabled", "strategy", costly=True)
    yield lambda: attributes("the engine of quantised layers", backends.quantized, "engine", costly=True)
    yield lambda: _pair("nnpack", "_get_nnpack_enabled", "_set_nnpack_enabled")
    yield lambda: Entry(
        name="the fast path of attention",
        read=backends.mha.get_fastpath_enabled,
        write=backends.mha.set_fastpath_enabled,
    )
    for kernel in ("flash", "mem_efficient", "math", "cudnn", "overrideable", "fa3"):
        yield partial(
            _pair, f"the {kernel} kernel of attention", f"_get_{kernel}_sdp_enabled", f"_set_sdp_use_{kernel}"
        )
    yield lambda: _pair("the order of attention's kernels", "_get_sdp_priority_order", "_set_sdp_priority_order")
    yield lambda: Entry(
        name="reductions of attention",
        read=cuda.fp16_bf16_reduction_math_sdp_allowed,
        write=cuda.allow_fp16_bf16_reduction_math_sdp,
    )
    for library in ("linalg", "blas"):
        yield partial(
            _pair, f"the library of {library}", f"_get_{library}_preferred_backend", f"_set_{library}_preferred_backend"
        )
    yield lambda: Entry(name="torch.set_warn_always", read=torch.is_warn_always_enabled, write=torch.set_warn_always)
    yield lambda: attributes(
        "torch.set_printoptions", torch._tensor_str.PRINT_OPTS, *vars(torch._tensor_str.PRINT_OPTS)
    )
    yield lambda: Entry(
        name="how modules are converted",
        read=torch.__future__.get_overwrite_module_params_on_conversion,
        write=torch.__future__.set_overwrite_module_params_on_conversion,
    )
    yield lambda: Entry(
        name="how parameters are swapped",
        read=torch.__future__.get_swap_module_params_on_conversion,
        write=torch.__future__.set_swap_module_params_on_conversion,
    )
    yield _hooks
    yield lambda: Entry(
        name="torch's generator",
        read=lambda: torch.default_generator.get_state().numpy().tobytes(),
        write=_write_generator,
    )
    yield lambda: Entry(name="the CUDA device and its generator", read=_read_cuda, write=_write_cuda)
    yield _layers
    yield lambda: patched(
        "torch's functions",
        {
            "torch": torch,
            "torch.Tensor": torch.Tensor,
            "torch.autograd": torch.autograd,
            "torch.linalg": torch.linalg,
            "torch.nn": nn,
            "torch.nn.functional": nn.functional,
            "torch.nn.init": nn.init,
            "torch.nn.Module": nn.Module,
        },
        library=torch.__file__,
    )


TORCH_STATE: tuple[Entry, ...] = _known(_entries())
"""In the order in which they are put back; those that this release of torch has."""
