"""Settings: those of atomate2's makers, told in a way that does not depend on the order of atoms."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure

from sluice.validate.vasp.jobs import Options, make_maker
from sluice.validate.vasp.sets import FLOWS, VaspCalculationSettings, calculation_settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pymatgen, of POTCARs and smearing


def rock_salt(a: str, b: str, length: float) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


WUSTITE, HALITE = rock_salt("Fe", "O", 4.33), rock_salt("Na", "Cl", 5.64)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_static_settings_are_those_of_the_maker(flow: str) -> None:
    settings = calculation_settings(WUSTITE, flow=flow)
    sets = make_maker(settings, Options()).static_maker.input_set_generator  # type: ignore[attr-defined]
    made = sets.get_input_set(WUSTITE, potcar_spec=True)
    by_kind = {"MAGMOM", "LDAUU", "LDAUJ", "LDAUL"}
    given = {tag: value for tag, value in made["INCAR"].items() if tag not in by_kind | {"KPAR"}}
    assert {tag: value for tag, value in settings.incar.items() if tag not in by_kind} == given
    assert list(settings.incar["MAGMOM"].values()) == made["INCAR"]["MAGMOM"]
    assert list(settings.potcars.values()) == list(sets.potcar_symbols)
    assert settings.functional == sets.user_potcar_functional
    if made["KPOINTS"] is not None:
        assert settings.kpoints == tuple(made["KPOINTS"].kpts[0])
    assert settings == VaspCalculationSettings.model_validate_json(settings.model_dump_json())


def test_hubbards_u_as_materials_project_has_it_or_not_at_all() -> None:
    settings = calculation_settings(WUSTITE, flow="MPGGADoubleRelaxStaticMaker")
    assert (settings.run_type, settings.hubbards) == ("GGA+U", {"Fe": 5.3})
    plain = calculation_settings(WUSTITE, flow="MPGGADoubleRelaxStaticMaker", hubbard_u=False)
    assert (plain.run_type, plain.hubbards) == ("GGA", {})
    for each in make_maker(plain, Options()).relax_maker, make_maker(plain, Options()):  # type: ignore[attr-defined]
        sets = getattr(each, "relax_maker2", getattr(each, "static_maker", None)).input_set_generator
        assert "LDAUU" not in sets.get_input_set(WUSTITE, potcar_spec=True)["INCAR"]
    assert calculation_settings(HALITE, flow="MPGGADoubleRelaxStaticMaker").run_type == "GGA"
    assert calculation_settings(WUSTITE, flow="MP24DoubleRelaxStaticMaker").run_type == "r2SCAN"


def test_settings_do_not_depend_on_the_order_of_atoms() -> None:
    turned = Structure.from_sites(list(reversed(WUSTITE)))
    one, other = (calculation_settings(s, flow="MPGGADoubleRelaxStaticMaker") for s in (WUSTITE, turned))
    assert one == other


def test_a_molecule_keeps_its_box_and_its_moment_and_nothing_else_changes() -> None:
    box = Structure(Lattice.orthorhombic(8, 8.5, 9), ["O", "O"], [[0, 0, 0.43], [0, 0, 0.57]])
    settings = calculation_settings(box, flow="MPGGADoubleRelaxStaticMaker", relax="ions", total_moment=2.0)
    assert settings.changed == {"ISIF": 2, "NUPDOWN": 2.0}
    maker = make_maker(settings, Options(kpar=2))
    tags = [
        each.input_set_generator.get_input_set(box, potcar_spec=True)["INCAR"]
        for each in (maker.relax_maker.relax_maker1, maker.relax_maker.relax_maker2, maker.static_maker)  # type: ignore[attr-defined]
    ]
    assert [(t.get("ISIF"), t["NUPDOWN"], t["KPAR"]) for t in tags] == [(2, 2, 2), (2, 2, 2), (None, 2, 2)]
    assert settings.incar["NUPDOWN"] == 2 and "KPAR" not in settings.incar
