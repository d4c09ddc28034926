"""What one would type: examples for every command's help, short enough for a terminal of 60 columns."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EXAMPLES"]

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": ("clipsweep init sweep.yaml", "clipsweep run sweep.yaml", "clipsweep report runs/sweep"),
    "init": ("clipsweep init", "clipsweep init mine.yaml --template own"),
    "validate": ("clipsweep validate sweep.yaml", "clipsweep validate - --json < sweep.yaml"),
    "check": ("clipsweep check sweep.yaml",),
    "null-test": ("clipsweep null-test sweep.yaml",),
    "plan": ("clipsweep plan sweep.yaml", "clipsweep plan sweep.yaml --set train.steps=50"),
    "run": (
        "clipsweep run sweep.yaml",
        "clipsweep run sweep.yaml --set sweep.seeds=5",
        "clipsweep run sweep.yaml --address auto --detach",
    ),
    "status": ("clipsweep status runs/sweep", "clipsweep status runs/sweep --slow"),
    "ls": ("clipsweep ls", "clipsweep ls elsewhere/runs --format csv"),
    "logs": ("clipsweep logs runs/sweep --follow", "clipsweep logs runs/sweep 58be"),
    "attach": ("clipsweep attach runs/sweep",),
    "watch": ("clipsweep watch runs/sweep --port 8080",),
    "cancel": ("clipsweep cancel runs/sweep",),
    "retry": ("clipsweep retry runs/sweep", "clipsweep retry runs/sweep 58be"),
    "estimate": ("clipsweep estimate runs/sweep --estimator gradient_noise",),
    "report": (
        "clipsweep report runs/sweep",
        "clipsweep report runs/sweep --where 'learning_rate <= 20'",
        "clipsweep report runs/sweep --format html --out a.html",
    ),
    "plot": ("clipsweep plot runs/sweep smoothness", "clipsweep plot runs/sweep loss --out loss.pdf"),
    "compare": ("clipsweep compare runs/before runs/after",),
    "reach": ("clipsweep reach runs/sweep --level 5",),
    "fit": ("clipsweep fit runs/sweep", "clipsweep fit runs/sweep --by-layer"),
    "advise": ("clipsweep advise runs/sweep",),
    "theory": ("clipsweep theory runs/bounds",),
    "times": ("clipsweep times runs/sweep --by trial",),
    "query": ("clipsweep query runs/sweep", "clipsweep query runs/sweep 'select * from trials limit 5'"),
    "export": ("clipsweep export runs/sweep tensorboard", "clipsweep export runs/sweep csv --to tables"),
    "audit-clip": ("clipsweep audit-clip my_module:train_step --max-norm 1",),
    "list": ("clipsweep list", "clipsweep list estimators"),
    "schema": ("clipsweep schema > schema.json",),
    "data": ("clipsweep data list",),
    "data fetch": ("clipsweep data fetch ptb", "clipsweep data fetch ptb --from downloads"),
    "data list": ("clipsweep data list",),
    "data path": ("clipsweep data path ptb",),
}
"""A command, with the one that it is a part of, to lines that its help shows."""
