import csv
import io
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spm_runtime.results import printable
from spm_runtime.results._tables import atoms_csv, atoms_xyz, defects_csv

DEFECTS_HEADER = "y_px,x_px,h_px,w_px,area_px,class,probability,y_nm,x_nm,area_nm2,score,confirmed,group"
HEADER = "y_px,x_px,y_nm,x_nm,score,position_std_px,width_px,intensity,sublattice"


def parse_xyz(text):
    """Count, cell (origin, a, b) and (N, 2) positions (x, y) of an extended XYZ file."""
    lines = text.splitlines()
    cell = [float(word) for word in re.search(r'Lattice="([^"]*)"', lines[1])[1].split()]
    origin = [float(word) for word in re.search(r'Origin="([^"]*)"', lines[1])[1].split()]
    words = [line.split() for line in lines[2:]]
    positions = np.array([[float(w[1]), float(w[2])] for w in words]).reshape(-1, 2)
    return int(lines[0]), np.array(origin[:2]), np.array(cell[0:2]), np.array(cell[3:5]), positions, words


def test_csv_has_the_promised_columns_and_enough_digits(make_scan, make_atoms, rng):
    scan = make_scan()
    atoms = make_atoms(rng.uniform(0, 40, (50, 2)), sublattice=np.arange(50) % 3)
    text = atoms_csv(scan, atoms)
    assert text.splitlines()[0] == HEADER
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 50
    yx = np.array([[float(r["y_px"]), float(r["x_px"])] for r in rows])
    np.testing.assert_allclose(yx, atoms.yx_px, atol=5e-5)
    nm = np.array([[float(r["y_nm"]), float(r["x_nm"])] for r in rows])
    np.testing.assert_allclose(nm, atoms.yx_px * [0.02, 0.03], atol=5e-7)
    np.testing.assert_allclose([float(r["score"]) for r in rows], atoms.score, rtol=1e-5)
    np.testing.assert_allclose([float(r["intensity"]) for r in rows], atoms.intensity, rtol=1e-6)
    assert [int(r["sublattice"]) for r in rows] == atoms.sublattice.tolist()


def test_what_is_not_known_is_an_empty_cell(make_scan, make_atoms):
    atoms = make_atoms([(1, 2)], std=np.nan, width=np.nan)
    (row,) = csv.DictReader(io.StringIO(atoms_csv(make_scan(pixel_size_nm=None), atoms)))
    empty = {"y_nm", "x_nm", "position_std_px", "width_px", "sublattice"}
    assert {name for name, cell in row.items() if cell == ""} == empty


def test_no_atoms_leave_a_header(make_scan, make_atoms):
    assert atoms_csv(make_scan(), make_atoms([])) == HEADER + "\n"
    assert atoms_xyz(make_scan(), make_atoms([])).startswith("0\n")


def test_uncalibrated_scans_have_no_xyz(make_scan, make_atoms):
    assert atoms_xyz(make_scan(pixel_size_nm=None), make_atoms([(1, 2)])) is None


def test_xyz_is_in_angstrom_and_shows_the_picture_unmirrored(make_scan, make_atoms):
    # Three atoms that turn left in the picture (y down on the screen) turn left in the XYZ file (y up).
    yx = [(10.0, 5.0), (10.0, 25.0), (4.0, 25.0)]
    count, _origin, right, up, xy, words = parse_xyz(atoms_xyz(make_scan(), make_atoms(yx)))
    assert count == 3
    assert {w[0] for w in words} == {"X"}
    assert {float(w[3]) for w in words} == {0.0}
    np.testing.assert_allclose(xy[1] - xy[0], [20 * 0.3, 0], atol=1e-4)
    np.testing.assert_allclose(xy[2] - xy[1], [0, 6 * 0.2], atol=1e-4)
    np.testing.assert_allclose(right, [64 * 0.3, 0], atol=1e-4)
    np.testing.assert_allclose(up, [0, 48 * 0.2], atol=1e-4)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angle=st.floats(-180, 180), y=st.floats(-500, 500), x=st.floats(-500, 500))
def test_xyz_in_the_scanners_frame_agrees_with_the_csv_and_fills_its_cell(make_scan, make_atoms, angle, y, x):
    scan = make_scan(offset_nm=(y, x), angle_deg=angle)
    corners = [(-0.5, -0.5), (47.5, -0.5), (47.5, 63.5), (-0.5, 63.5), (23.5, 31.5)]
    _, origin, right, up, xy, _ = parse_xyz(atoms_xyz(scan, make_atoms(corners)))
    np.testing.assert_allclose(xy[:, ::-1] / 10, scan.positions_nm(np.array(corners)), atol=1e-5)
    fractions = np.linalg.solve(np.stack([right, up], axis=1), (xy - origin).T).T
    np.testing.assert_allclose(fractions, [(0, 1), (0, 0), (1, 0), (1, 1), (0.5, 0.5)], atol=1e-3)
    assert np.cross(np.append(right, 0), np.append(up, 0))[2] > 0  # a right-handed cell


@pytest.mark.parametrize("facts", [{"offset_nm": (100.0, 200.0)}, {"angle_deg": 30.0}])
def test_half_a_scanner_frame_is_none(make_scan, make_atoms, facts):
    atoms = make_atoms([(10.0, 5.0), (4.0, 25.0)])
    assert atoms_csv(make_scan(**facts), atoms) == atoms_csv(make_scan(), atoms)
    assert atoms_xyz(make_scan(**facts), atoms) == atoms_xyz(make_scan(), atoms)


@pytest.mark.parametrize("sublattice", [None, [0, 1]])
def test_xyz_keeps_score_and_sublattice(make_scan, make_atoms, sublattice):
    *_, words = parse_xyz(atoms_xyz(make_scan(), make_atoms([(1, 2), (3, 4)], sublattice=sublattice)))
    assert [int(w[5]) for w in words] == (sublattice or [-1, -1])
    assert [float(w[4]) for w in words] == pytest.approx([0.99, 0.5], rel=1e-5)


def test_defects_have_the_promised_columns_and_enough_digits(make_scan, make_defects, rng):
    scan = make_scan()
    groups = np.arange(1, 31, dtype=np.int32)
    defects = make_defects(rng.uniform(0, 40, (30, 2)), confirmed=np.arange(30) % 3 - 1, group=groups)
    text = defects_csv(scan, defects)
    assert text.splitlines()[0] == DEFECTS_HEADER
    rows = list(csv.DictReader(io.StringIO(text)))

    def column(name):
        return [float(row[name]) for row in rows]

    np.testing.assert_allclose(np.transpose([column("y_px"), column("x_px")]), defects.yx_px, atol=5e-5)
    np.testing.assert_allclose(np.transpose([column("h_px"), column("w_px")]), defects.size_px, atol=5e-5)
    np.testing.assert_allclose(np.transpose([column("y_nm"), column("x_nm")]), defects.yx_px * [0.02, 0.03], atol=5e-7)
    np.testing.assert_allclose(column("area_px"), defects.area_px, rtol=1e-5)
    np.testing.assert_allclose(column("area_nm2"), defects.area_px * 0.02 * 0.03, rtol=1e-5)
    np.testing.assert_allclose(column("probability"), defects.probability, rtol=1e-5)
    np.testing.assert_allclose(column("score"), defects.score, rtol=1e-5)
    assert [row["class"] for row in rows] == ["vacancy", "adatom"] * 15
    assert [row["confirmed"] for row in rows] == ["", "no", "yes"] * 10
    assert [int(row["group"]) for row in rows] == groups.tolist()


def test_no_defects_leave_a_header(make_scan, make_defects):
    assert defects_csv(make_scan(), make_defects([])) == DEFECTS_HEADER + "\n"


def test_defects_without_calibration_have_pixels_only(make_scan, make_defects):
    (row,) = csv.DictReader(io.StringIO(defects_csv(make_scan(pixel_size_nm=None), make_defects([(1, 2)]))))
    assert {name for name, cell in row.items() if cell == ""} == {"y_nm", "x_nm", "area_nm2", "confirmed", "group"}


def test_defects_and_atoms_stand_in_one_frame(make_scan, make_atoms, make_defects):
    scan = make_scan(offset_nm=(100.0, -20.0), angle_deg=30.0)
    yx = [(-3.0, 5.0), (40.25, 61.5)]
    (first, *_), (second, *_) = (
        list(csv.DictReader(io.StringIO(text)))
        for text in (atoms_csv(scan, make_atoms(yx)), defects_csv(scan, make_defects(yx)))
    )
    for name in ("y_px", "x_px", "y_nm", "x_nm"):
        assert first[name] == second[name]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=20))
def test_any_name_of_a_class_stays_one_cell_that_nothing_computes(make_scan, make_defects, name):
    text = defects_csv(make_scan(), make_defects([(-1.0, 2.0)], names=(name,)))
    lines = list(csv.reader(io.StringIO(text)))
    assert [len(line) for line in lines] == [13, 13]
    cell = lines[1][5]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell.removeprefix("'") == printable(name).strip().removeprefix("'")
    assert lines[1][0] == "-1.0000"  # a number keeps its sign


def test_names_that_spreadsheets_would_compute(make_scan, make_defects):
    names = ("=1+1", "+3", "-vacancy", "@SUM(1)", "plain", 'with "quotes", commas')
    text = defects_csv(make_scan(), make_defects([(1, 1)] * 6, names=names))
    cells = [row["class"] for row in csv.DictReader(io.StringIO(text))]
    assert cells == ["'=1+1", "'+3", "'-vacancy", "'@SUM(1)", "plain", 'with "quotes", commas']
