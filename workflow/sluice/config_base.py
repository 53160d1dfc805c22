"""What every section of the configuration is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Element

# SSSP's elements up to Bi without the f-block beyond La: those with an elemental reference.
SUPPORTED_ELEMENTS = tuple(Element.from_Z(z).symbol for z in (*range(1, 58), *range(72, 84)))

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def check_elements(symbols: tuple[str, ...]) -> tuple[str, ...]:
    """Element symbols as they are.

    Raises:
        ValueError: if one is not supported, or stands there twice.
    """
    for symbol in symbols:
        if symbol not in SUPPORTED_ELEMENTS:
            raise ValueError(
                f"{symbol!r} is not supported; allowed are the elements from H to Bi without Ce-Lu, e.g. Na, Cl"
            )
    if len(set(symbols)) != len(symbols):
        raise ValueError("an element is listed twice")
    return symbols
