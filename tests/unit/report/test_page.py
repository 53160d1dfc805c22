"""Small texts of the page."""

from __future__ import annotations

from sluice.report.page import duration, formula_html, script_json, symbol_html
from sluice.report.validated import file_name, space_group_symbol


def test_file_names_stay_in_the_folder_and_apart():
    taken: set[str] = set()
    assert file_name("../../etc/passwd", taken) == "_.._etc_passwd.cif"
    assert file_name("a/b", taken) == "a_b.cif"
    assert file_name("a_b", taken) == "a_b_2.cif"
    assert file_name("A_B", taken) == "A_B_3.cif"  # some file systems do not tell case apart
    assert file_name("...", taken) == "crystal.cif"


def test_small_texts():
    assert [duration(s) for s in (3.21, 42, 210, 9000)] == ["3.2 s", "42 s", "3.5 min", "2.5 h"]
    assert formula_html("Ca12MgF3") == "Ca<sub>12</sub>MgF<sub>3</sub>"
    assert formula_html("<b>") == "&lt;b&gt;"
    assert symbol_html(space_group_symbol(221)) == 'Pm<span class="bar">3</span>m'
    assert space_group_symbol(0) == ""
    assert script_json({"a": "</script>"}) == '{"a":"\\u003c/script\\u003e"}'
