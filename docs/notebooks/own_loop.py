"""A marimo notebook: `marimo edit docs/notebooks/own_loop.py`."""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    import tempfile
    from pathlib import Path

    import marimo as mo
    import torch

    from estimators import SmoothnessMonitor
    from sweeper import Run

    return Path, Run, SmoothnessMonitor, mo, tempfile, torch


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # Your own training loop, measured

    A plain PyTorch loop, two seeds with clipping and two without. The monitor writes what
    `report`, `fit` and `advise` read.
    No Ray, and a few seconds: `pip install 'clipsweep[monitor]' marimo`.
    """)
    return


@app.cell
def _(SmoothnessMonitor, torch):
    def loss_fn(model, batch):
        inputs, targets = batch
        return (model(inputs) - targets).square().mean()

    def train(folder, seed, clip_norm):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = [(x, 3 * x[:, :1].sin()) for x in torch.randn(40, 16, 8)]
        with SmoothnessMonitor(
            model, optimizer, loss_fn, out=folder, every=4, seed=seed, clip_norm=clip_norm, budget=None
        ) as monitor:
            for batch in loader:
                optimizer.zero_grad()
                loss = loss_fn(model, batch)
                loss.backward()
                monitor.note(loss, batch)
                if clip_norm is not None:
                    monitor.clip_grad_norm_(clip_norm)
                optimizer.step()

    return (train,)


@app.cell
def _(Path, Run, tempfile, train):
    folder = Path(tempfile.mkdtemp()) / "loop"
    for clip_norm in (None, 1.0):
        for seed in range(2):
            train(folder, seed, clip_norm)
    run = Run(folder)
    run
    return (run,)


@app.cell
def _(mo):
    which = mo.ui.dropdown(
        {"all": [], "clipped": ["clip_norm != none"], "not clipped": ["clip_norm = none"]}, value="all"
    )
    which
    return (which,)


@app.cell
def _(run, which):
    run.report(where=which.value)
    return


@app.cell
def _(run, which):
    run.fit(where=which.value)
    return


@app.cell
def _(run):
    run.metrics.groupby("trial_id")["train_loss"].agg(["first", "last"])
    return


if __name__ == "__main__":
    app.run()
