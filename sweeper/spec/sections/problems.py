"""``problem``: the options of every registered problem, and of the user's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from sweeper.spec.sections.analytic import Analytic
from sweeper.spec.sections.models import ImageModel, LanguageModel, Lstm, ResNet20
from sweeper.spec.sections.own import IMPORT_PATH, PLACES, resolved
from sweeper.spec.sections.values import (
    AS_NUMBER,
    Count,
    Flag,
    FreeValue,
    NonNegative,
    Section,
    Share,
    Text,
    conflict,
    nested,
)

__all__ = [
    "ADDED_OPTIONS",
    "EMBEDDED_DATA",
    "PROBLEM_OPTIONS",
    "DeepLinear",
    "ImageClassification",
    "LanguageModeling",
    "OwnProblem",
    "RandomLength",
]


class RandomLength(Section):
    """Sequences of random length, as in Merity et al. (2018)."""

    halved: Annotated[float, Field(ge=0, le=1), AS_NUMBER] = Field(
        default=0.05, description="Probability of half the length."
    )
    jitter: NonNegative = Field(default=5.0, description="Standard deviation of the length, in words.")


class LanguageModeling(Section):
    """Next-word prediction on a text."""

    use: Literal["language_modeling"] = Field(description="Next-word prediction on a text.")
    corpus: Text = Field(
        default="python-docs",
        description="python-docs, or ptb or wikitext2 of `clipsweep data`; or a folder of texts, relative to the spec.",
        examples=["python-docs", "ptb", "wikitext2"],
    )
    model: LanguageModel = Field(default=Lstm(), description="The network.")
    batch_size: Count = Field(default=20, description="Parallel text streams.")
    sequence_length: Count = Field(default=35, description="Words a step back-propagates through.")
    evaluate_sequences: Count = Field(default=20, description="Streams into which the validation text is cut.")
    evaluate_fraction: Share = Field(
        default=1.0, description="Share of the validation text that is evaluated, from its beginning."
    )
    random_length: RandomLength | None = Field(
        default=None, description="Sequences of random length, the learning rate scaled by it; null means one length."
    )


class ImageClassification(Section):
    """Labels of small images."""

    use: Literal["image_classification"] = Field(description="Labels of small images.")
    dataset: Text = Field(
        default="digits",
        description="digits, or cifar10 of `clipsweep data`; or a folder of its files, relative to the spec.",
        examples=["digits", "cifar10"],
    )
    model: ImageModel = Field(default=ResNet20(), description="The network.")
    batch_size: Count = Field(default=128, description="Images per step.")
    augment: Flag = Field(default=False, description="Random crops and mirror images.")
    evaluate_fraction: Share = Field(
        default=1.0, description="Share of the validation images that is evaluated, from the first."
    )


class DeepLinear(Section):
    """Linear regression with a product of matrices, as in section 2.3 of Zhang et al. (2020)."""

    use: Literal["deep_linear"] = Field(description="Linear regression with a product of matrices; tiny and quick.")
    layers: Count = Field(default=2, description="Matrices that are multiplied.")
    width: Count = Field(default=8, description="Rows and columns of each.")
    samples: Count = Field(default=64, description="Training samples.")
    noise: NonNegative = Field(default=0.0, description="Standard deviation of the noise of the targets.")
    batch_size: Count | None = Field(default=None, description="Samples per step; null means all of them.")

    @model_validator(mode="after")
    def _fit(self) -> DeepLinear:
        if self.batch_size is not None and self.batch_size > self.samples:
            message = f"batch_size {self.batch_size} is more than the {self.samples} samples there are"
            raise conflict(message, "batch_size", "samples", hint="at most samples")
        return self


class OwnProblem(Section):
    """A user's own problem; its options are passed to the factory unchanged."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FreeValue]

    use: Annotated[str, Field(pattern=IMPORT_PATH), resolved("problems")] = Field(
        description=PLACES, examples=["my_package.my_module:my_problem"]
    )

    @model_validator(mode="after")
    def _free_names(self) -> OwnProblem:
        for name in ("seed", "device"):
            if name in self.__pydantic_extra__:
                raise conflict(f"clipsweep itself passes {name} to the factory", name, hint="choose another name")
        for name in self.__pydantic_extra__:
            if "." in name:
                # `problem.opt.lr` in a sweep sets lr in the section opt, and would leave an option opt.lr as it is.
                raise conflict("the name has a dot, which would lead into a section", name, hint=nested(name))
        return self


PROBLEM_OPTIONS: dict[str, type[Section]] = {
    "language_modeling": LanguageModeling,
    "image_classification": ImageClassification,
    "deep_linear": DeepLinear,
    "analytic": Analytic,
}
"""Name to options. Their defaults are those of the factories in ``trainers.problems``."""

EMBEDDED_DATA: dict[str, dict[str, tuple[str, ...]]] = {
    "language_modeling": {"corpus": ("python-docs",)},
    "image_classification": {"dataset": ("digits",)},
}
"""Options that name data, with what clipsweep includes; other values name ``trainers.data.sources``, or folders."""

ADDED_OPTIONS: dict[str, dict[str, Any]] = {
    "language_modeling": {"random_length": None, "evaluate_fraction": 1.0},
    "image_classification": {"evaluate_fraction": 1.0},
}
"""Options added after the first ids were made, with their defaults, at which they are left out so that ids stay."""
