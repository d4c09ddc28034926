"""``problem.model``: the options of every network."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from sweeper.spec.sections.values import AS_NUMBER, Count, Flag, NonNegative, Section, conflict

__all__ = ["AwdLstm", "Gpt", "ImageModel", "LanguageModel", "LogisticRegression", "Lstm", "Mlp", "ResNet18", "ResNet20"]

_Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1), AS_NUMBER]


class Lstm(Section):
    """An LSTM language model."""

    use: Literal["lstm"] = Field(default="lstm", description="The architecture.")
    layers: Count = Field(default=2, description="Stacked LSTM layers.")
    hidden: Count = Field(default=200, description="Units of each layer.")
    embedding: Count = Field(default=200, description="Length of the word vectors.")
    tied: Flag = Field(default=True, description="Whether the output weights are the word vectors.")
    dropout: _Dropout = Field(default=0.0, description="Dropout between the layers.")

    @model_validator(mode="after")
    def _fit(self) -> Lstm:
        if self.tied and self.hidden != self.embedding:
            message = f"tied weights need hidden and embedding to be equal, found {self.hidden} and {self.embedding}"
            raise conflict(message, "hidden", "embedding", "tied", hint="make them equal, or set tied: false")
        return self


class AwdLstm(Section):
    """The regularised LSTM language model of Merity et al. (2018)."""

    use: Literal["awd_lstm"] = Field(description="The architecture.")
    layers: Count = Field(default=3, description="Stacked LSTM layers.")
    hidden: Count = Field(default=1150, description="Units of every layer but the last, if tied.")
    embedding: Count = Field(
        default=400, description="Length of the word vectors; if tied, also units of the last layer."
    )
    tied: Flag = Field(default=True, description="Whether the output weights are the word vectors.")
    dropout: _Dropout = Field(default=0.4, description="Locked dropout of the last layer's output.")
    dropout_input: _Dropout = Field(default=0.65, description="Locked dropout of the word vectors.")
    dropout_hidden: _Dropout = Field(default=0.25, description="Locked dropout between layers.")
    dropout_embedding: _Dropout = Field(default=0.1, description="Dropout of whole words.")
    weight_drop: _Dropout = Field(default=0.5, description="DropConnect of the recurrent weights.")
    activation_penalty: NonNegative = Field(default=2.0, description="alpha, on the squared activations.")
    temporal_penalty: NonNegative = Field(default=1.0, description="beta, on their squared change in time.")


class Gpt(Section):
    """A small decoder-only Transformer."""

    use: Literal["gpt"] = Field(description="The architecture.")
    layers: Count = Field(default=4, description="Blocks.")
    heads: Count = Field(default=4, description="Attention heads of each block.")
    width: Count = Field(default=128, description="Size of the residual stream; a multiple of heads.")
    tied: Flag = Field(default=True, description="Whether the output weights are the word vectors.")
    dropout: _Dropout = Field(default=0.0, description="Dropout of embedding, attention and both branches.")

    @model_validator(mode="after")
    def _fit(self) -> Gpt:
        if self.width % self.heads:
            message = f"width must be a multiple of heads, found {self.width} and {self.heads}"
            nearest = max(self.width - self.width % self.heads, self.heads)
            raise conflict(message, "width", "heads", hint=f"{nearest} is one")
        return self


class ResNet20(Section):
    """The residual network of He et al. for small images."""

    use: Literal["resnet20"] = Field(default="resnet20", description="The architecture.")
    width: Count = Field(default=16, description="Channels of the first stage; they double twice.")


class ResNet18(Section):
    """The residual network with 18 layers and a small stem, as is usual for CIFAR-10."""

    use: Literal["resnet18"] = Field(description="The architecture.")
    width: Count = Field(default=64, description="Channels of the first stage; they double three times.")


class Mlp(Section):
    """A perceptron with rectified hidden layers."""

    use: Literal["mlp"] = Field(description="The architecture.")
    layers: Count = Field(default=2, description="Hidden layers.")
    hidden: Count = Field(default=128, description="Units of each.")


class LogisticRegression(Section):
    """One linear layer on the pixels."""

    use: Literal["logistic_regression"] = Field(description="The architecture.")


def _chosen(default: str) -> Discriminator:
    """By ``use``, which may be left out."""

    def name(value: Any) -> Any:
        return value.get("use", default) if isinstance(value, dict) else getattr(value, "use", default)

    return Discriminator(name)


LanguageModel: TypeAlias = Annotated[
    Annotated[Lstm, Tag("lstm")] | Annotated[AwdLstm, Tag("awd_lstm")] | Annotated[Gpt, Tag("gpt")], _chosen("lstm")
]
ImageModel: TypeAlias = Annotated[
    Annotated[ResNet20, Tag("resnet20")]
    | Annotated[ResNet18, Tag("resnet18")]
    | Annotated[Mlp, Tag("mlp")]
    | Annotated[LogisticRegression, Tag("logistic_regression")],
    _chosen("resnet20"),
]
