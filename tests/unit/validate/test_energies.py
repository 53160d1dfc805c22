"""Formation energies: arithmetic against values done by hand, corrections against Materials Project's."""

from __future__ import annotations

import math

import pytest
from pymatgen.core import Lattice, Structure

from sluice.validate.energies import (
    MixedReferencesError,
    MixedRunTypesError,
    TotalEnergy,
    formation_energies,
    formation_energy,
    mp2020_correction,
)

SETUP = "espresso 6.7MaX, fast, T60 48/384 Ry, cold 0.02 Ry, 0.35 1/A"


def rock_salt(a: str, b: str, length: float = 4.2) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]])


def energy(name: str, value: float, *, setup: str = SETUP, **pseudos: str) -> TotalEnergy:
    return TotalEnergy(name, value, setup, pseudos)


def test_formation_energy_by_hand() -> None:
    # KMgF3: (1 * -700 + 1 * -450 + 3 * -660) / 5 = -626; -630 - -626 = -4
    compound = energy("c", -630.0, K="k", Mg="m", F="f")
    references = {
        "K": energy("ref-K", -700.0, K="k"),
        "Mg": energy("ref-Mg", -450.0, Mg="m"),
        "F": energy("ref-F", -660.0, F="f"),
        "Cs": energy("ref-Cs", 0.0, Cs="c", setup="another, of no concern here"),
    }
    assert formation_energy({"K": 1, "Mg": 1, "F": 3}, compound, references) == pytest.approx(-4.0, abs=1e-12)
    assert formation_energy({"K": 2, "Mg": 2, "F": 6}, compound, references) == pytest.approx(-4.0, abs=1e-12)


def test_an_element_in_its_reference_state_has_none() -> None:
    reference = energy("ref-Na", -1305.7, Na="n")
    assert formation_energy({"Na": 2}, energy("c", -1305.7, Na="n"), {"Na": reference}) == 0.0


@pytest.mark.parametrize(
    "other",
    ["espresso 6.7MaX, balanced, T60 60/480 Ry, cold 0.02 Ry, 0.25 1/A", SETUP.replace("T60 48/384", "T40 32/256")],
)
def test_references_of_another_setting_are_refused_by_name(other: str) -> None:
    references = {"Na": energy("ref-Na", -1.0, Na="n"), "Cl": energy("ref-Cl", -2.0, Cl="c", setup=other)}
    with pytest.raises(MixedReferencesError) as refused:
        formation_energy({"Na": 1, "Cl": 1}, energy("halite", -3.0, Na="n", Cl="c"), references)
    for part in ("halite", "ref-Cl", SETUP, other):
        assert part in str(refused.value)


def test_references_with_another_pseudopotential_are_refused() -> None:
    references = {"Na": energy("ref-Na", -1.0, Na="n"), "Cl": energy("ref-Cl", -2.0, Cl="another")}
    with pytest.raises(MixedReferencesError, match=r"pseudopotential c of Cl.*another"):
        formation_energy({"Na": 1, "Cl": 1}, energy("halite", -3.0, Na="n", Cl="c"), references)


@pytest.mark.parametrize(
    ("metal", "anion", "raw", "corrected"),
    [("Na", "Cl", -1.842, -2.149), ("Mg", "O", -2.706, -3.050)],  # measured with pw.x; MP2020: Cl -0.614, O -0.687 eV
)
def test_corrected_formation_energies_of_salts(metal: str, anion: str, raw: float, corrected: float) -> None:
    assert raw + mp2020_correction(rock_salt(metal, anion)) == pytest.approx(corrected, abs=6e-4)


def lithium_oxide(distance: float) -> Structure:
    """Li2O2 with its two oxygens this far apart (Å)."""
    half = distance / 2 / 6.0
    sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5 - half], [0.0, 0.5, 0.5 + half]]
    return Structure(Lattice.cubic(6.0), ["Li", "Li", "O", "O"], sites)


@pytest.mark.parametrize(
    ("distance", "per_oxygen"),
    [(1.30, -0.161), (1.45, -0.465), (2.60, -0.687)],
    ids=["superoxide", "peroxide", "oxide"],
)
def test_oxides_are_told_apart_by_their_oxygen_distance(distance: float, per_oxygen: float) -> None:
    assert mp2020_correction(lithium_oxide(distance)) == pytest.approx(per_oxygen / 2, abs=1e-6)


@pytest.mark.parametrize(("metal", "anion"), [("Fe", "O"), ("Ni", "F"), ("W", "O"), ("Co", "O")])
def test_no_corrected_value_where_the_scheme_wants_hubbard_u(metal: str, anion: str) -> None:
    assert math.isnan(mp2020_correction(rock_salt(metal, anion)))


@pytest.mark.parametrize(
    ("metal", "anion", "per_atom"),
    [("Fe", "S", -0.503 / 2), ("Ti", "N", -0.361 / 2), ("Fe", "Cl", -0.614 / 2), ("Cs", "Au", 0.0)],
)
def test_corrections_of_other_anions(metal: str, anion: str, per_atom: float) -> None:
    assert mp2020_correction(rock_salt(metal, anion)) == pytest.approx(per_atom, abs=1e-6)


def test_elements_are_not_corrected() -> None:
    oxygen = Structure(Lattice.orthorhombic(8, 8.5, 9), ["O", "O"], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.21 / 9]])
    assert mp2020_correction(oxygen) == 0.0


VASP = "MPGGADoubleRelaxStaticMaker, PBE, 520 eV"


def vasp_energies(*sources: str, kinds: tuple[str, str, str]) -> tuple[TotalEnergy, dict[str, TotalEnergy]]:
    """An oxide of iron and its references: setups of Fe and O, kinds of FeO, Fe and O."""
    hubbards = {"Fe": 5.3} if kinds[0].endswith("+U") else {}
    compound = TotalEnergy("c", -7.5, f"vasp 6.4.2, {VASP}", {"Fe": "f", "O": "o"}, kinds[0], hubbards)
    rows = zip(("Fe", "O"), (-8.4, -4.9), sources, kinds[1:], strict=True)
    return compound, {e: TotalEnergy(f"ref-{e}", x, f"{s}, {VASP}", {e: e.lower()[0]}, k) for e, x, s, k in rows}


def test_references_of_a_snapshot_go_with_its_settings_all_or_none() -> None:
    gga = ("GGA", "GGA", "GGA")
    compound, references = vasp_energies("mp-snapshot 0123", "mp-snapshot 0123", kinds=gga)
    assert formation_energy({"Fe": 1, "O": 1}, compound, references) == pytest.approx(-0.85)
    compound, references = vasp_energies("mp-snapshot 0123", "vasp 6.4.2", kinds=gga)
    with pytest.raises(MixedReferencesError, match=r"partly computed, partly from a snapshot .*ref-O: \[vasp"):
        formation_energy({"Fe": 1, "O": 1}, compound, references)
    compound, references = vasp_energies("vasp 6.3.0", "vasp 6.3.0", kinds=gga)
    with pytest.raises(MixedReferencesError, match=r"vasp 6\.3\.0"):
        formation_energy({"Fe": 1, "O": 1}, compound, references)
    espresso = TotalEnergy("c", -7.5, f"espresso 7.2, {VASP}", compound.pseudos, "GGA")
    _, references = vasp_energies("mp-snapshot 0123", "mp-snapshot 0123", kinds=gga)
    with pytest.raises(MixedReferencesError):
        formation_energy({"Fe": 1, "O": 1}, espresso, references)


def test_gga_and_gga_u_are_joined_by_the_scheme_or_not_at_all() -> None:
    wustite = rock_salt("Fe", "O", 4.33)

    def energies(*kinds: str) -> tuple[float, float]:
        compound, references = vasp_energies("vasp 6.4.2", "vasp 6.4.2", kinds=kinds)  # type: ignore[arg-type]
        return formation_energies(wustite, compound, references)

    raw, corrected = energies("GGA+U", "GGA", "GGA")
    # MP2020: Fe in oxides -2.256 eV, oxide -0.687 eV.
    assert math.isnan(raw) and corrected == pytest.approx(-0.85 - (2.256 + 0.687) / 2, abs=1e-6)
    raw, corrected = energies("GGA", "GGA", "GGA")
    assert raw == pytest.approx(-0.85) and math.isnan(corrected)  # the scheme knows no plain-PBE iron oxide
    raw, corrected = energies("r2SCAN", "r2SCAN", "r2SCAN")
    assert raw == pytest.approx(-0.85) and math.isnan(corrected)
    for kinds in (("r2SCAN", "GGA", "GGA"), ("GGA", "GGA+U", "GGA"), ("GGA+U", "r2SCAN", "r2SCAN")):
        with pytest.raises(MixedRunTypesError, match="does not join them"):
            energies(*kinds)
    compound, references = vasp_energies("vasp 6.4.2", "vasp 6.4.2", kinds=("GGA+U", "GGA", "GGA"))
    other = TotalEnergy("c", -7.5, compound.setup, compound.pseudos, "GGA+U", {"Fe": 4.0})  # not the scheme's U
    with pytest.raises(MixedRunTypesError):
        formation_energies(wustite, other, references)
