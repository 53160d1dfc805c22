"""Settings of the models of compositions and of the tables that they learn from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sluice.config_base import Count, Fraction, Positive, Section


class CompositionDataSettings(Section):
    """A CSV of formulas with a number to learn."""

    formula_column: str = Field("formula", description="Column with formulas.")
    target_column: str = Field(description="Column with the number (or the class, 0 or 1) to learn.")
    unit: str = Field("", description="Unit of the target.")
    duplicates: Literal["mean", "lowest", "highest"] = Field(
        "mean", description="What becomes of several rows of one composition; for energies: lowest."
    )
    max_sigma: float | None = Field(
        None, gt=0, description="Rows further from the mean than so many standard deviations are left out; null: none."
    )
    validation_share: Fraction = Field(0.1, description="Share of the compositions for validation.")
    test_share: Fraction = Field(0.1, description="Share of the compositions for the final test.")
    max_bad_fraction: Fraction = Field(0.05, description="Bad rows tolerated before it stops.")

    @model_validator(mode="after")
    def _check(self) -> CompositionDataSettings:
        if self.validation_share + self.test_share >= 0.9:
            raise ValueError("validation_share + test_share must stay below 0.9")
        return self


def seen_encodings(model: str) -> tuple[str, ...]:
    """The values of ``encoding`` that a model of compositions goes by; for Roost the default, which it ignores."""
    limited = {"roost": ("fractions",), "elemnet": ("fractions", "embedding")}
    return limited.get(model, ("fractions", "onehot", "magpie", "embedding"))


class CompositionModelSettings(Section):
    """A model of compositions."""

    model: Literal["elemnet", "roost", "head"] = Field(
        "elemnet", description="ElemNet, Roost, or a fully connected head on an encoding."
    )
    encoding: Literal["fractions", "onehot", "magpie", "embedding"] = Field(
        "fractions",
        description="What `head` sees; embedding: sums of the vectors of the elements that a WGAN's critic learned, for"
        " ElemNet, too (in a campaign the round's WGAN). ElemNet takes no other besides fractions, Roost none.",
    )
    task: Literal["regression", "classification"] = Field("regression", description="What the target is.")
    depth: int = Field(17, ge=2, le=49, description="Layers of ElemNet, the output counted.")
    paper_dropout: Fraction = Field(1.0, description="Share of ElemNet's dropout; 0: none.")
    residual: bool = Field(False, description="Normalize ElemNet's and the head's layers and add their inputs.")
    widths: tuple[Count, ...] = Field((256, 128, 64, 32), description="Hidden layers of `head`.")
    size: int = Field(64, ge=2, description="Length of Roost's element vectors.")
    messages: Count = Field(3, description="Rounds of Roost's messages.")
    heads: Count = Field(3, description="Roost's attention heads.")
    hidden: Count = Field(256, description="Hidden width of Roost's gates and messages.")
    trunk: tuple[Count, ...] = Field((1024, 512), min_length=1, description="Hidden layers behind Roost's pooling.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout of `head` and of Roost's trunk.")
    members: Count = Field(1, description="Networks of an ensemble, each from a seed of its own.")
    uncertainty: bool = Field(False, description="Let a regression predict its own spread, too (Laplace).")
    loss: Literal["mae", "mse"] = Field("mae", description="Loss of a regression without a spread of its own.")
    epochs: Count = Field(100, description="Passes over the training compositions.")
    batch_size: Count = Field(128, description="Compositions in a step.")
    learning_rate: Positive = Field(3e-4, description="AdamW's peak step.")
    weight_decay: float = Field(1e-6, ge=0.0, description="Decoupled weight decay.")
    schedule: Literal["one-cycle", "constant"] = Field("one-cycle", description="How the step changes.")
    checkpoint_minutes: Positive = Field(1.0, description="Minutes between checkpoints.")

    @property
    def needs_wgan(self) -> bool:
        """Whether the vectors of the elements come from a WGAN."""
        return self.encoding == "embedding"

    @field_validator("encoding")
    @classmethod
    def _seen(cls, encoding: str, info: ValidationInfo) -> str:
        """Refuse what the model would never look at; here, since a field's problem comes with its line."""
        model = info.data.get("model", "")
        if encoding in seen_encodings(model):
            return encoding
        why = {
            "roost": "learns vectors of the elements itself and takes no encoding",
            "elemnet": "sees element fractions or learned vectors",
        }[model]
        also = " or model: elemnet" if encoding in seen_encodings("elemnet") else ""
        raise ValueError(
            f"model is `{model}`, which {why} (allowed: {', '.join(seen_encodings(model))}); set model: head{also}, or"
            " leave encoding out"
        )

    @model_validator(mode="after")
    def _check(self) -> CompositionModelSettings:
        if self.uncertainty and self.task == "classification":
            raise ValueError("uncertainty: a classification's probability says it already; leave it false")
        return self
