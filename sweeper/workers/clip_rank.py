"""One rank of a clip audit, in a process of its own: it imports the user's step and plays cases on it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sweeper.blame import remedy
from sweeper.errors import error_line, error_text, error_traceback
from trainers.clip_audit.cases import Case, Outcome, Spot
from trainers.clip_audit.layout import SIZE, LinearLoss
from trainers.clip_audit.play import play, require_signature, spot_of, watch_clips
from trainers.errors import TrainerError

__all__ = ["serve_rank"]

_STEP = ("model", "optimizer", "micro_batches")
_PREPARE = ("model", "make_optimizer")
_ORPHANED_S = 0.5
_LATER_S = 60.0
"""Of two time limits the audit's own comes first, which can say in which line a rank hangs."""


def serve_rank(given: str) -> None:
    """Play cases that come on stdin, one JSON document a line, and write what they did to what was stdout.

    Args:
        given: JSON: ``use`` (``module:function``), ``prepare`` (a name in that module, or null), ``folder`` (that the
            module is imported from), ``rank``, ``ranks`` and ``meeting`` (a file where ranks find each other).
    """
    options = json.loads(given)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # What asks to be read from a terminal finds its end, and does not take cases away.
    cases = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threading.Thread(target=_end_when_orphaned, args=(os.getppid(),), daemon=True).start()
    send = _Sender(out)
    try:
        if options["ranks"] > 1:
            # What is made when the user's module is imported, as Accelerate's state is, finds the other rank.
            _meet(options)
        step, prepare = _import(options)
        if prepare is not None:
            _meet(options)
        _warm_up(options["ranks"])
    except BaseException as error:  # an exit, too, is what the user's module did
        send.document(
            refused=error_text(error) if isinstance(error, TrainerError) else error_line(error),
            remedy=remedy(error), spot=_spot(_where(error, Path(options["folder"]))),
        )  # fmt: skip
        return
    send.document(ready=True)
    for line in cases:
        _play(json.loads(line), step, prepare, options, send)


class _Sender:
    """Writes documents, and none after one that was the last."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._process = os.getpid()

    def document(self, **message: Any) -> None:
        if os.getpid() != self._process:
            os._exit(0)  # the step has forked, and its child came back from it, too
        with self._lock:
            self._write(message)

    def last(self, **message: Any) -> None:
        """Write it and end the process, from whatever thread."""
        with self._lock:
            self._write(message)
            os._exit(1)

    def _write(self, message: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def _import(options: Mapping[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    folder = options["folder"]
    watch_clips(Path(folder))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module_name, _, name = options["use"].partition(":")
    module = importlib.import_module(module_name)
    step = getattr(module, name, None)
    require_signature(step, name, _STEP)
    wanted = options["prepare"]
    prepare = getattr(module, wanted or "prepare", None)
    if wanted is not None and prepare is None:
        raise TrainerError(f"{module_name} has no {wanted!r}, which --prepare names")
    if prepare is not None:
        require_signature(prepare, wanted or "prepare", _PREPARE)
    return step, prepare  # type: ignore[return-value]


def _meet(options: Mapping[str, Any]) -> None:
    """Have ranks find each other, unless the user's module has done so when it was imported."""
    if dist.is_initialized():
        return
    if options["ranks"] > 1:
        for name, key in {
            "RANK": "rank",
            "LOCAL_RANK": "rank",
            "WORLD_SIZE": "ranks",
            "LOCAL_WORLD_SIZE": "ranks",
        }.items():
            os.environ[name] = str(options[key])
    if sys.platform == "linux":
        # Ranks are on this machine, whatever its name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{options['meeting']}",
        rank=options["rank"],
        world_size=options["ranks"],
        timeout=timedelta(seconds=options["timeout_s"] + _LATER_S),
    )


def _warm_up(ranks: int) -> None:
    """Load what torch loads at a first step, which takes seconds that no case is to be charged for."""
    bare = LinearLoss()
    model = DistributedDataParallel(bare) if ranks > 1 else bare
    # The user's module may have switched gradients off.
    with torch.enable_grad():
        for kind in (torch.optim.SGD, torch.optim.Adam):
            optimizer = kind(model.parameters(), lr=1.0)
            model(torch.ones(SIZE)).backward()
            optimizer.step()


def _play(
    given: Mapping[str, Any], step: Callable[..., Any], prepare: Callable[..., Any] | None, options: Mapping[str, Any],
    send: _Sender,
) -> None:  # fmt: skip
    case = Case(
        name=given["name"], steps=[np.array(one) for one in given["steps"]], optimizer=given["optimizer"],
        frozen=given["frozen"],
    )  # fmt: skip
    folder = Path(options["folder"])
    over = threading.Event()
    watch = threading.Thread(
        target=_give_up, args=(over, options["timeout_s"], threading.main_thread().ident, folder, send), daemon=True
    )
    watch.start()
    try:
        outcome = play(
            case, step, prepare, rank=options["rank"], ranks=options["ranks"], folder=folder, words=error_line
        )
    except TrainerError as error:
        over.set()
        send.document(refused=str(error), remedy="", spot=None)
        return
    except Exception as error:
        over.set()
        send.document(internal=error_traceback(error))
        return
    over.set()
    send.document(outcome=_document(outcome))


def _give_up(over: threading.Event, limit_s: float, main: int, folder: Path, send: _Sender) -> None:
    if over.wait(limit_s):
        return
    frame = sys._current_frames().get(main)
    send.last(outcome=_document(Outcome(hung_s=limit_s, spot=spot_of(frame, folder))))


def _end_when_orphaned(parent: int) -> None:
    """A rank whose audit was killed would otherwise wait for ever for the next case, or in a collective."""
    while os.getppid() == parent:
        time.sleep(_ORPHANED_S)
    os._exit(1)


def _where(error: BaseException, folder: Path) -> Spot | None:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return spot_of(frames[-1], folder) if frames else None


def _spot(spot: Spot | None) -> dict[str, Any] | None:
    return None if spot is None else asdict(spot)


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        **{name: getattr(outcome, name) for name in ("raised", "hung_s", "died", "facts")},
        "spot": _spot(outcome.spot),
        "seen": [
            {
                "moved": one.moved.tolist(),
                "held": one.held.tolist(),
                "factors": list(one.factors),
                "rates": [list(rates) for rates in one.rates],
                "rate": one.rate.tolist(),
                "calls": [asdict(call) for call in one.calls],
            }
            for one in outcome.seen
        ],
    }
