"""The configuration of VASP."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sluice.config_base import Count, Positive, Section

MP_GGA_FLOW: Literal["MPGGADoubleRelaxStaticMaker"] = "MPGGADoubleRelaxStaticMaker"
VASP_COMMAND = "vasp_std"


class VaspSettings(Section):
    """VASP through atomate2 (`code: vasp`); the flow sets the accuracy, `protocol` and `spin_elements` play no part."""

    flow: Literal["MPGGADoubleRelaxStaticMaker", "MPMetaGGADoubleRelaxStaticMaker", "MP24DoubleRelaxStaticMaker"] = (
        Field(
            MP_GGA_FLOW,
            description="atomate2's maker: Materials Project's PBE(+U), its r2SCAN, or its r2SCAN of 2024.",
        )
    )
    hubbard_u: bool = Field(
        True, description="PBE+U for oxides and fluorides as Materials Project has it; false: plain PBE throughout."
    )
    potcars: Path | None = Field(
        None, description="Directory of POTCARs as pymatgen lays them out; null: that of PMG_VASP_PSP_DIR."
    )
    references: Path | None = Field(
        None,
        description="Snapshot of Materials Project's elemental entries (JSON, maybe .gz) to take the references from"
        " instead of computing them; only with MPGGADoubleRelaxStaticMaker.",
    )
    gamma_command: str | None = Field(
        None, description="Program for calculations at the Γ point alone, e.g. vasp_gam; null: `command`."
    )
    kpar: Count = Field(1, description="Groups of k-points that are worked on side by side (KPAR).")
    ncore: Count = Field(1, description="Ranks that share a band (NCORE).")
    hang_hours: Positive = Field(6.0, description="Silence after which VASP counts as hanging and is restarted, h.")

    @model_validator(mode="after")
    def _check(self) -> VaspSettings:
        if self.references is not None and self.flow != MP_GGA_FLOW:
            raise ValueError(f"references: Materials Project's snapshot holds PBE energies; flow must be {MP_GGA_FLOW}")
        return self
