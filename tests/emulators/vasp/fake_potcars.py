"""POTCARs that hold nothing of VASP's: title, valence and mass in a shape that pymatgen reads, and three numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pymatgen.core import Element
from pymatgen.io.vasp.sets import MPRelaxSet

DATE = "01Jan1970"
NOBLE = (2, 10, 18, 36, 54, 86)


def valence(element: str) -> int:
    """Electrons outside the last closed shell that leaves at least one; as odd or even as the nuclear charge."""
    number = Element(element).Z
    return number - max((z for z in NOBLE if z < number), default=0)


def title(element: str) -> str:
    """The TITEL of the fake one with the symbol that Materials Project uses."""
    return f"PAW_PBE {MPRelaxSet.CONFIG['POTCAR'][element]} {DATE}"


def text(element: str) -> str:
    """The file."""
    return (
        f"  {title(element)}\n {valence(element):.10f}\n parameters from PSCTR are:\n"
        f"   VRHFIN ={element}: fake\n   LEXCH  = PE\n   EATOM  =   100.0000 eV,    7.3500 Ry\n\n"
        f"   TITEL  = {title(element)}\n   LULTRA =        F    use ultrasoft PP ?\n   IUNSCR =        0\n"
        f"   POMASS = {float(Element(element).atomic_mass):8.3f}; ZVAL   = {valence(element):8.3f}    mass and valenz\n"
        "   ENMAX  =  300.000; ENMIN  =  200.000 eV\n   LCOR   =        T    correct aug charges\n"
        "   LPAW   =        T    paw PP\n   END of PSCTR-controll parameters\n local part\n   1.0 2.0 3.0\n"
        " End of Dataset\n"
    )


def write_potcars(directory: Path, elements: Iterable[str], functional: str = "POT_GGA_PAW_PBE") -> Path:
    """Write fake POTCARs in pymatgen's layout; returns what PMG_VASP_PSP_DIR would be."""
    for element in elements:
        folder = directory / functional / MPRelaxSet.CONFIG["POTCAR"][element]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "POTCAR").write_text(text(element), encoding="utf-8")
    return directory
