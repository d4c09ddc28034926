"""Results do not depend on which trials shared a worker: offenders run between two equal trials, called directly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sweeper.planning.plan import expand
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import Assignment, RaisedItem, Rows, SegmentItem, SnapshotItem, TrainerItem
from sweeper.spec import loads_spec
from sweeper.workers.estimator import EstimatorWorker
from sweeper.workers.trainer import TrainerWorker

CODE = """
import decimal, gc, locale, logging, os, random, signal, socket, sys, threading, time, warnings, zlib
import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from trainers.problem import Problem
{AT_IMPORT}

end = threading.Event()


class Mode(TorchFunctionMode):
    pass


def drawn(calm):
    return 0.0 if calm else float(random.random() + np.random.rand())


def world(calm):
    "What a trial finds of its process, as a number."
    found = [
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_num_threads(),
        torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision(), torch.is_anomaly_enabled(),
        torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled, torch.backends.cuda.math_sdp_enabled(),
        torch.is_autocast_enabled("cpu"), str(torch.tensor([1 / 3])), sys.float_info.min * 0.5, os.getcwd(),
        sorted(os.environ.items()), os.umask(0), np.geterr(), str(np.array([1 / 3])), sys.getrecursionlimit(),
        socket.getdefaulttimeout(), decimal.Decimal(1) / 3, gc.isenabled(), gc.get_threshold(), len(warnings.filters),
        locale.setlocale(locale.LC_ALL), signal.getsignal(signal.SIGUSR1), sys.gettrace(), sys.getprofile(),
        id(sys.stdout), id(sys.excepthook), sys.path, len(sys.meta_path), logging.root.manager.disable,
        id(nn.functional.gelu), id(nn.Linear.forward), id(print), len(nn.modules.module._global_forward_hooks),
        drawn(calm), float(torch.rand(())), time.timezone,
    ]
    os.umask(found[15])
    return float(zlib.crc32(repr(found).encode()))


def offender(*, does, where, seed, device):
    def act(place):
        if place == where:
            exec(does, globals())

    def loss(model, batch, carry):
        act("loss")
        if does == "raise" and where == "loss": raise RuntimeError("as asked")
        hidden = nn.functional.gelu(model[0](batch)) * 1e-30
        return model[1](hidden / 1e-30).square().mean() + torch.rand(()) * 0.01 + drawn(calm) * 0.01, carry

    def measured_loss(model, batch, carry):
        "Sees the generators without moving them, as what is measured must be the same each time."
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        found = loss(model, batch, carry)
        torch.set_rng_state(states[0]), np.random.set_state(states[1]), random.setstate(states[2])
        return found

    calm = where == "calm" or "calm" in does
    act("factory")
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    with torch.no_grad():
        model[1].bias += drawn(calm)
    data = torch.linspace(-1, 1, 24).reshape(8, 3)
    return Problem(
        model=model, loss=loss, batch=lambda step: data + step / 8, probe=lambda share: [data[:4], data[4:]],
        evaluate=lambda model: {"world": world(calm)}, steps_per_epoch=4, fingerprint="world",
        measured_loss=measured_loss,
    )
"""

SPEC = """
problem: {{use: 'world_problem:offender', does: pass, where: factory}}
update_rule: {{learning_rate: 0.01}}
train: {{steps: 6, evaluate_every: 2, checkpoint_every: {every}}}
measure: {{every: 2, data_fraction: 1, estimators: [{{use: directional_smoothness}}]}}
"""

PUT_BACK = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('cpu')",
    "grad mode": "torch.set_grad_enabled(False)",
    "inference mode": "global _mode; _mode = torch.inference_mode(); _mode.__enter__()",
    "determinism": "torch.use_deterministic_algorithms(True)",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "anomaly mode": "torch.autograd.set_detect_anomaly(True)",
    "denormals": "torch.set_flush_denormal(True)",
    "threads": "torch.set_num_threads(2)",
    "cudnn": "torch.backends.cudnn.benchmark = True",
    "onednn": "torch.backends.mkldnn.enabled = False",
    "attention": "torch.backends.cuda.enable_math_sdp(False)",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
    "printing": "torch.set_printoptions(precision=2); np.set_printoptions(precision=2)",
    "generators": "torch.manual_seed(1); np.random.seed(1); random.seed(1)",
    "hooks": "nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 2)",
    "seterr": "np.seterr(all='raise')",
    "folder": "os.chdir('/')",
    "environment": "os.environ['OFFENDER'] = '1'; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "umask": "os.umask(0o77)",
    "signals": "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "streams": "import io; sys.stdout = io.StringIO(); sys.excepthook = print",
    "recursion": "sys.setrecursionlimit(5000)",
    "socket": "socket.setdefaulttimeout(3)",
    "locale": "locale.setlocale(locale.LC_ALL, 'C.UTF-8' if locale.setlocale(locale.LC_ALL) == 'C' else 'C')",
    "decimal": "decimal.getcontext().prec = 3",
    "gc": "gc.disable(); gc.set_threshold(7)",
    "warnings": "warnings.simplefilter('ignore')",
    "tracing": "sys.settrace(lambda *args: None); sys.setprofile(lambda *args: None)",
    "logging": "logging.disable(logging.CRITICAL)",
}

LEFT = {
    "function": ("nn.functional.gelu = nn.functional.relu", "torch.nn.functional.gelu"),
    "layer": ("nn.Linear.forward = lambda self, x: x @ self.weight.T", "torch.nn.Linear.forward"),
    "module": ("nn.Module.train = lambda self, mode=True: self", "torch.nn.Module.train"),
    "tensor": ("torch.Tensor.square = torch.Tensor.abs", "torch.Tensor.square"),
    "builtin": ("import builtins; builtins.print = repr", "builtins.print"),
    "path": ("sys.path.insert(0, '/nowhere')", "sys.path"),
    "mode": ("Mode().__enter__()", "a function mode that was entered and not left"),
    "tensor hooks": (
        "torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x).__enter__()",
        "hooks of saved tensors that were entered and not left",
    ),
    "thread": (
        "threading.Thread(target=end.wait, name='spoiler').start()",
        "a thread that goes on (spoiler)",
    ),
}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """What a failing test may leave behind must not reach the next."""
    dtype, gelu, forward = torch.get_default_dtype(), nn.functional.gelu, nn.Linear.forward
    yield
    if (module := sys.modules.get("world_problem")) is not None:
        module.end.set()  # of the threads that wait for it
    torch.set_default_dtype(dtype)
    nn.functional.gelu, nn.Linear.forward = gelu, forward  # type: ignore[method-assign]


class Bench:
    """One folder with the module; workers that are called directly."""

    def __init__(self, folder: Path, at_import: str = "") -> None:
        self.folder = folder
        (folder / "world_problem.py").write_text(CODE.replace("{AT_IMPORT}", at_import))
        sys.modules.pop("world_problem", None)
        self.settings: dict[str, Any] = {
            "run_dir": str(folder / "run"),
            "threads": 1,
            "device": "cpu",
            "search": (str(folder),),
        }
        self.trainer = TrainerWorker(**self.settings)

    def assignment(
        self, does: str = "pass", where: str = "factory", *, every: int = 100, registered: bool = False
    ) -> Assignment:
        text = SPEC.format(every=every)
        if registered:
            text = text.replace("{use: 'world_problem:offender', does: pass, where: factory}", "{use: deep_linear}")
        sweep = loads_spec(text, folder=self.folder)
        trial = expand(sweep).trials[0]
        assert sweep.measure is not None
        section = trial.problem if registered else {**trial.problem, "does": does, "where": where}
        return Assignment(
            trial=f"{does}{where}"[:60].replace("/", "-"),
            driver_epoch=1,
            attempt=1,
            seed=0,
            problem=section,
            update_rule=trial.update_rule,
            train=trial.train,
            measure=sweep.measure.model_dump(mode="json"),
        )

    def train(self, assignments: Sequence[Assignment]) -> list[TrainerItem]:
        items = []
        for item in self.trainer.train(assignments):
            assert torch.get_default_dtype() == torch.float32, "between two items it is the worker's own"
            items.append(item)
        return items


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda at_import="": Bench(tmp_path, at_import)


def rows_of(items: Sequence[TrainerItem], attempt: int) -> dict[str, bytes]:
    """The rows of the n-th attempt among items, bit for bit; times apart, an item is what it trained."""
    columns: dict[str, list[Any]] = {}
    done = 0
    for item in items:
        if isinstance(item, SegmentItem):
            if done == attempt:
                for name, column in item.rows.items():
                    # Where a segment has no evaluation, there is no column of it.
                    columns.setdefault(name, []).append(column[~np.isnan(column.astype(float))])
        if isinstance(item, SnapshotItem) and done == attempt:
            columns.setdefault("iterates", []).append(item.payload)
        done += isinstance(item, RaisedItem) or (isinstance(item, SegmentItem) and item.outcome is not None)
    assert columns, "no such attempt"
    return {name: b"".join(np.asarray(piece).tobytes() for piece in pieces) for name, pieces in columns.items()}


@pytest.mark.parametrize("where", ["factory", "loss"])
@pytest.mark.parametrize("name", PUT_BACK)
def test_two_equal_trials_have_equal_rows_whatever_the_one_between_them_sets(
    name: str, where: str, bench: Callable[..., Bench]
) -> None:
    here = bench()
    plain = here.assignment()
    items = here.train([plain, here.assignment(PUT_BACK[name], where), plain])
    assert rows_of(items, 0) == rows_of(items, 2)
    assert "world" in rows_of(items, 0)
    ends = [item for item in items if isinstance(item, RaisedItem | SegmentItem)]
    assert [end.left_behind for end in ends] == [None, None, None]


def test_an_offender_is_seen_by_itself(bench: Callable[..., Bench]) -> None:
    here = bench()
    # A step sets autocast itself, and the loop grad mode and generators.
    unseen = {"grad mode", "inference mode", "generators", "default device", "autocast"}
    names = [name for name in PUT_BACK if name not in unseen]
    items = here.train([here.assignment(), *(here.assignment(PUT_BACK[name]) for name in names)])
    alone = rows_of(items, 0)["world"]
    for place, name in enumerate(names, start=1):
        assert rows_of(items, place)["world"] != alone, (
            f"{name}: the world is the same, so the tests above show nothing"
        )


@pytest.mark.parametrize("where", ["factory", "loss"])
@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_put_back_ends_the_trainer_and_says_what_it_is(
    name: str, where: str, bench: Callable[..., Bench]
) -> None:
    here = bench()
    does, told = LEFT[name]
    plain = here.assignment()
    items = here.train([plain, here.assignment(does, where), plain])
    ends = [item for item in items if isinstance(item, RaisedItem | SegmentItem)]
    assert len(ends) == 2, "the third is not begun"
    assert [end.left_behind for end in ends] == [None, told]
    assert rows_of(items, 0) == rows_of(here.train([plain]), 0), "what can be put back is"


def test_what_a_failing_attempt_has_set_is_put_back_too(bench: Callable[..., Bench]) -> None:
    here = bench()
    plain = here.assignment()
    fails = here.assignment("torch.set_default_dtype(torch.float64); raise SystemExit(3)", "loss")
    leaves = here.assignment("nn.functional.gelu = None; raise ValueError", "loss")
    items = here.train([plain, fails, plain, leaves, plain])
    assert isinstance(items[-1], RaisedItem)
    assert items[-1].left_behind == "torch.nn.functional.gelu"
    assert rows_of(items, 0) == rows_of(items, 2)
    assert sum(isinstance(item, RaisedItem) for item in items) == 2


def test_what_a_factory_sets_holds_for_its_whole_trial_however_that_is_cut_into_segments(
    bench: Callable[..., Bench],
) -> None:
    here = bench()
    does = "torch.set_default_dtype(torch.float64); os.environ['OFFENDER'] = '1'; np.seterr(all='raise')"
    whole = rows_of(here.train([here.assignment(does)]), 0)
    cut = rows_of(here.train([here.assignment(does, every=1)]), 0)
    assert cut == whole
    assert rows_of(here.train([here.assignment()]), 0)["world"] != whole["world"]


def test_trials_whose_items_alternate_in_one_process_do_not_see_each_other(bench: Callable[..., Bench]) -> None:
    here = bench()
    # Calm: the generators of Python and NumPy are swapped only where a trial begins and ends.
    does = "torch.set_default_dtype(torch.float64); os.environ['OFFENDER'] = 'calm'"
    one, other = here.assignment(does, every=1), here.assignment(where="calm", every=1)
    alone = [here.train([one]), here.train([other])]
    streams = [TrainerWorker(**here.settings).train([assignment]) for assignment in (one, other)]
    together: list[list[TrainerItem]] = [[], []]
    while any([
        (item := next(stream, None)) is not None and not items.append(item)
        for stream, items in zip(streams, together, strict=True)
    ]):
        assert torch.get_default_dtype() == torch.float32
    for apart, items in zip(alone, together, strict=True):
        assert rows_of(apart, 0) == rows_of(items, 0)


@pytest.mark.parametrize(
    "at_import",
    [
        "torch.set_default_dtype(torch.float64)",
        "nn.functional.gelu = nn.functional.relu",
        "sys.path.insert(0, '/nowhere')",
        "torch.manual_seed(3); random.random(); np.random.rand()",
    ],
)
def test_what_a_module_sets_when_it_is_imported_holds_for_all_its_trials_and_for_no_others(
    at_import: str, bench: Callable[..., Bench]
) -> None:
    here = bench()
    ours = here.assignment(registered=True)
    before = rows_of(here.train([ours]), 0)
    here = bench(at_import)
    plain = here.assignment()
    items = here.train([plain, ours, plain])
    assert rows_of(items, 0) == rows_of(items, 2)
    assert rows_of(items, 1) == before
    assert all(item.left_behind is None for item in items if isinstance(item, SegmentItem))


def test_seeds_differ_in_all_generators_and_the_same_seed_does_not_whatever_ran_before(
    bench: Callable[..., Bench],
) -> None:
    here = bench()
    plain = here.assignment()
    np.random.seed(1)
    one = rows_of(here.train([plain]), 0)
    np.random.seed(2)
    assert rows_of(here.train([plain]), 0) == one


# Estimators


def measured(worker: EstimatorWorker, bench: Bench, assignment: Assignment, step: int = 0) -> Rows:
    snapshots = [item for item in bench.train([assignment]) if isinstance(item, SnapshotItem)]
    taken = snapshots[step]
    verdict = worker.measure(0, SnapshotId(assignment.trial, 1, taken.header.step), taken.header, taken.payload)
    assert isinstance(verdict, Rows), verdict
    return verdict


@pytest.mark.parametrize("where", ["factory", "loss"])
@pytest.mark.parametrize(
    "name", [name for name in PUT_BACK if name not in {"grad mode", "inference mode", "determinism", "hooks"}]
)
def test_a_snapshot_is_measured_the_same_whatever_probes_its_estimator_has_built(
    name: str, where: str, bench: Callable[..., Bench]
) -> None:
    here = bench()
    worker = EstimatorWorker(**here.settings)
    plain, offending = here.assignment(), here.assignment(PUT_BACK[name], where)
    first = measured(worker, here, plain)
    own = measured(worker, here, offending)
    again = measured(worker, here, plain)
    fresh = measured(EstimatorWorker(**here.settings), here, plain)
    assert repr(first.rows) == repr(again.rows) == repr(fresh.rows)
    assert repr(measured(EstimatorWorker(**here.settings), here, offending).rows) == repr(own.rows)
    assert again.left_behind is None


def test_a_probe_is_built_and_evaluated_with_what_its_factory_sets(bench: Callable[..., Bench]) -> None:
    here = bench()
    worker = EstimatorWorker(**here.settings)
    plain, double = here.assignment(), here.assignment("torch.set_default_dtype(torch.float64)")
    for _ in range(2):
        for assignment, arithmetic in ((plain, "float32 ieee"), (double, "float64 ieee")):
            row = measured(worker, here, assignment).rows["directional_smoothness"]
            assert str(row["arithmetic"]).startswith(arithmetic[:7])
        assert torch.get_default_dtype() == torch.float32


def test_rows_of_a_snapshot_do_not_depend_on_those_measured_before(bench: Callable[..., Bench]) -> None:
    here = bench()
    plain = here.assignment()
    worker = EstimatorWorker(**here.settings)
    several = [measured(worker, here, plain, step=step) for step in (0, 1, 2)]
    assert repr(measured(EstimatorWorker(**here.settings), here, plain, step=2).rows) == repr(several[2].rows)


def test_an_estimator_says_that_a_factory_left_something_behind(bench: Callable[..., Bench]) -> None:
    here = bench()
    worker = EstimatorWorker(**here.settings)
    patching = here.assignment(LEFT["function"][0])
    assert measured(worker, here, patching).left_behind == "torch.nn.functional.gelu"
    at_import = bench(LEFT["function"][0])
    worker = EstimatorWorker(**at_import.settings)
    assert measured(worker, at_import, at_import.assignment()).left_behind is None


# The registered problems, which are left alone


@pytest.mark.parametrize("use", ["deep_linear"])
def test_registered_problems_cost_nothing(
    use: str, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("their state is read")

    here = bench()
    monkeypatch.setattr("sweeper.workers.process_state.OwnState.pieces", never)
    monkeypatch.setattr("sweeper.workers.process_state.OwnState.in_force", never)
    assert rows_of(here.train([here.assignment(registered=True)]), 0)
