"""``train``, ``resources`` and ``cluster``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sweeper.spec.sections.values import (
    AS_INTEGER,
    AutoOrCount,
    AutoOrFlag,
    Count,
    Flag,
    Gpus,
    Index,
    NonNegative,
    Positive,
    Section,
    Text,
    conflict,
)

__all__ = ["ADDED_TRAIN_OPTIONS", "Cluster", "EstimatorPool", "Pool", "Resources", "Train", "TrainerPool"]


class Train(Section):
    """How long a trial trains, and what is written along the way."""

    steps: Count = Field(description="Steps of each trial.", examples=[400])
    log_every: Count | None = Field(
        default=None,
        description="Metrics of every n-th step are kept; null means all; for analytic functions, the first and last.",
    )
    evaluate_every: Count | None = Field(
        default=None, description="The problem's own metrics at every n-th step; always at the end."
    )
    checkpoint_every: Count = Field(
        default=500, description="A checkpoint at every n-th step; what a crash costs at most."
    )
    max_loss: Positive | None = Field(default=None, description="A training loss above it counts as divergence.")
    accumulate: Count = Field(
        default=1, description="Batches of a step, which is along the mean of their gradients, all at the same weights."
    )
    arithmetic: Literal["ieee", "tf32", "bf16"] = Field(
        default="ieee",
        description="How training computes float32: in full, with TF32 on a GPU, or with autocast to bfloat16.",
    )


ADDED_TRAIN_OPTIONS: dict[str, Any] = {"accumulate": 1, "arithmetic": "ieee"}
"""Options of ``train`` added after the first ids were made, with their defaults, which are left out of the ids."""


class Pool(Section):
    """How many workers of a kind, and what each uses."""

    count: AutoOrCount = Field(default="auto", description="Workers; auto means as many as fit.")
    cpus: NonNegative = Field(default=0.5, description="CPUs that a worker occupies.")
    gpus: Gpus = Field(default=0.0, description="GPU that a worker occupies, at most 1; a fraction shares one.")
    threads: Count = Field(default=1, description="Threads that a worker computes with.")
    accelerator_type: Text | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="The only GPU model that will do, as Ray names it; null means any.",
        examples=["A100", "H100"],
    )

    @model_validator(mode="after")
    def _types_need_a_gpu(self) -> Pool:
        if self.accelerator_type is not None and self.gpus == 0:
            raise conflict(
                "a worker without a GPU has no accelerator",
                "accelerator_type",
                "gpus",
                hint="set gpus, or leave accelerator_type out",
            )
        return self


class TrainerPool(Pool):
    """The same for the workers that train."""

    cuda_graphs: AutoOrFlag = Field(
        default="auto",
        description="Record forward and backward pass as CUDA graphs and replay them; auto means on GPUs, for the "
        "problems that come with clipsweep.",
    )
    pack: AutoOrCount = Field(
        default=1,
        description="Trials of one small shape that a worker trains step by step together; auto means where it wins.",
    )

    @model_validator(mode="after")
    def _graphs_need_a_gpu(self) -> TrainerPool:
        if self.cuda_graphs is True and self.gpus == 0:
            raise conflict("CUDA graphs need a GPU", "cuda_graphs", "gpus", hint="set gpus, or leave cuda_graphs out")
        return self


class EstimatorPool(Pool):
    """The same for the workers that measure."""

    cuda_graphs: Flag = Field(
        default=False, description="Record the gradient as a CUDA graph, and replay it at every point."
    )

    @model_validator(mode="after")
    def _graphs_need_a_gpu(self) -> EstimatorPool:
        if self.cuda_graphs and self.gpus == 0:
            raise conflict("CUDA graphs need a GPU", "cuda_graphs", "gpus", hint="set gpus, or leave cuda_graphs out")
        return self


class Resources(Section):
    """What the trainers and the estimators use of the cluster."""

    trainers: TrainerPool = Field(default=TrainerPool(), description="The workers that train.")
    estimators: EstimatorPool = Field(default=EstimatorPool(), description="The workers that measure.")
    max_attempts: Annotated[int, Field(ge=1, le=100), AS_INTEGER] = Field(
        default=3, description="How many attempts a trial has in all, if its worker dies."
    )
    stall_timeout_s: Positive | None = Field(
        default=3600, description="A worker without a heartbeat for this many seconds is ended; null means never."
    )


class Cluster(Section):
    """Where the workers run."""

    address: Text = Field(
        default="local",
        pattern=r"^(local|auto|((ray|https?)://)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$",
        description="local, auto (the cluster of this machine), host:port, or ray://host:port.",
        examples=["local", "auto"],
    )
    gpus: Index | None = Field(
        default=None, description="GPUs of a local Ray, such as MIG instances; null means those that it finds."
    )
    patience_s: Positive = Field(
        default=300, description="How many seconds a cluster may be without room for a worker before the sweep ends."
    )
