"""The pseudopotentials: the table, the search, the checks, the ways to get them."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from sluice.errors import MissingProgramError
from sluice.validate.espresso import pseudos as p


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A library of two files of our own, in place of the real table."""
    folder = tmp_path / "small"
    folder.mkdir()
    table = {}
    for element in ("Na", "Cl"):
        text = f"<UPF>{element}</UPF>".encode()
        (folder / f"{element}.upf").write_bytes(text)
        table[element] = p.Pseudopotential(
            element, f"{element}.upf", hashlib.md5(text).hexdigest(), hashlib.sha256(text).hexdigest(), 40, 320, 1, "US"
        )
    monkeypatch.setattr(p, "pseudo_table", lambda: table)
    monkeypatch.delenv(p.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return folder


def test_the_table_is_whole():
    table = p.pseudo_table()
    assert len(table) == 103
    assert len({row.file for row in table.values()}) == 103
    for row in table.values():
        assert len(row.md5) == 32
        assert len(row.sha256) == 64
        assert row.ecutrho_ry >= 4 * row.ecutwfc_ry
        assert row.kind in ("NC", "US", "PAW")
        assert row.valence_electrons >= 1
    # YAML reads "No" as false; a table of elements must not.
    assert "No" in table
    assert (table["Na"].ecutwfc_ry, table["Na"].ecutrho_ry) == (40.0, 320.0)
    assert table["Fe"].ecutrho_ry == 1080.0


def test_a_wrong_file_is_named(small):
    library = p.PseudoLibrary(small)
    assert library.path("Na") == small / "Na.upf"
    (small / "Na.upf").write_text("something else")
    with pytest.raises(p.PseudopotentialError, match=r"Na\.upf: md5 is [0-9a-f]{32}, but SSSP"):
        library.path("Na")
    with pytest.raises(p.PseudopotentialError):
        library.sha256("Na")
    assert len(library.check()) == 1
    assert library.check(["Cl"]) == []


def test_a_missing_file_says_how_to_get_it(small):
    (small / "Cl.upf").unlink()
    with pytest.raises(MissingProgramError, match="sluice pseudos install"):
        p.PseudoLibrary(small).path("Cl")


def test_an_element_the_library_lacks(small):
    with pytest.raises(p.PseudopotentialError, match="'Xx'"):
        p.PseudoLibrary(small).path("Xx")


def test_nothing_found_says_where_it_looked_and_what_to_do(small, tmp_path):
    with pytest.raises(MissingProgramError, match="sluice pseudos install") as caught:
        p.find_pseudos(tmp_path / "nowhere")
    assert "nowhere" in str(caught.value)


def test_the_environment_names_the_directory(small, monkeypatch):
    monkeypatch.setenv(p.ENVIRONMENT_VARIABLE, str(small))
    assert p.find_pseudos().directory == small.resolve()
    assert p.default_directory() == small


def test_an_explicit_directory_wins(small, monkeypatch, tmp_path):
    monkeypatch.setenv(p.ENVIRONMENT_VARIABLE, str(tmp_path / "elsewhere"))
    assert p.find_pseudos(small).directory == small.resolve()


def test_copying_from_a_directory(small, tmp_path):
    library = p.install_pseudos(tmp_path / "target", small)
    assert library.check() == []
    assert sorted(path.name for path in library.directory.iterdir()) == ["Cl.upf", "Na.upf"]
    # Installed already: nothing is fetched again.
    assert p.install_pseudos(tmp_path / "target", "archive").check() == []


def test_a_source_with_a_wrong_file_leaves_the_target_alone(small, tmp_path):
    (small / "Na.upf").write_text("something else")
    with pytest.raises(p.PseudopotentialError, match="md5"):
        p.install_pseudos(tmp_path / "target", small)
    assert not (tmp_path / "target").exists()


def test_no_route_works_names_every_reason(small, tmp_path, monkeypatch):
    def fails(work: Path) -> Path:
        raise subprocess.CalledProcessError(100, ["apt-get"], stderr="E: Unable to locate package\n")

    def offline(work: Path) -> Path:
        raise OSError("no route to host")

    monkeypatch.setattr(p, "_from_debian", fails)
    monkeypatch.setattr(p, "_from_archive", offline)
    with pytest.raises(MissingProgramError, match="could not be installed") as caught:
        p.install_pseudos(tmp_path / "target")
    message = str(caught.value)
    assert "Unable to locate package" in message
    assert "no route to host" in message
    assert "--from" in message


def test_the_second_route_is_taken_when_the_first_fails(small, tmp_path, monkeypatch):
    def fails(work: Path) -> Path:
        raise MissingProgramError("not a Debian system")

    monkeypatch.setattr(p, "_from_debian", fails)
    monkeypatch.setattr(p, "_from_archive", lambda work: small)
    assert p.install_pseudos(tmp_path / "target").check() == []


def test_the_archive_is_unpacked_with_the_second_address_if_the_first_fails(small, tmp_path, monkeypatch):
    import io
    import tarfile

    import pooch

    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append(url)
        if len(asked) == 1:
            raise OSError("404 Not Found")
        with tarfile.open(path / fname, "w:gz") as tar:
            for file in small.iterdir():
                entry = tarfile.TarInfo(f"SSSP/{file.name}")
                entry.size = file.stat().st_size
                tar.addfile(entry, io.BytesIO(file.read_bytes()))
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert p.install_pseudos(tmp_path / "target", "archive").check() == []
    assert asked == list(p.ARCHIVE_URLS)


def test_an_archive_that_climbs_out_of_its_folder_is_refused(small, tmp_path, monkeypatch):
    import tarfile

    import pooch

    def retrieve(url, known_hash, fname, path):
        with tarfile.open(path / fname, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("../../escaped.upf"))
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(MissingProgramError, match="outside"):
        p.install_pseudos(tmp_path / "target", "archive")


def test_the_debian_source_is_derived_from_the_systems(monkeypatch, tmp_path):
    sources = tmp_path / "debian.sources"
    sources.write_text(
        "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/x.gpg\n\nTypes: deb\nURIs: http://other.example\nSuites: s\n"
    )
    monkeypatch.setattr(p, "DEBIAN_SOURCES", sources)
    text = p._debian_source()
    assert "Suites: trixie\n" in text
    assert "mirror.example" in text
    assert "other.example" not in text
    monkeypatch.setattr(p, "DEBIAN_SOURCES", tmp_path / "none")
    with pytest.raises(MissingProgramError, match="not a Debian"):
        p._debian_source()


def test_the_installed_library_is_right_where_there_is_one():
    try:
        library = p.find_pseudos()
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    if not (library.directory / p.pseudopotential("H").file).exists():
        pytest.skip("only part of the library is here")
    assert library.check() == []
