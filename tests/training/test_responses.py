"""Single-atom responses: what the cache promises, and their sum against one full multislice calculation."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RectBivariateSpline

from spm_runtime.errors import ParameterError
from spm_training.simulate.compute_responses import SHAPE_ELEMENTS, single_atom, wavelength_nm
from spm_training.simulate.responses import ELEMENTS, RESPONSES_PATH, load_responses

ATOMIC_NUMBERS = {"B": 5, "C": 6, "N": 7, "O": 8, "Al": 13, "Si": 14, "S": 16, "Ti": 22, "Fe": 26, "Ge": 32, "Se": 34}
ATOMIC_NUMBERS |= {"Sr": 38, "Mo": 42, "Ag": 47, "Sn": 50, "Te": 52, "Ba": 56, "Hf": 72, "W": 74, "Au": 79, "Bi": 83}


@pytest.fixture(scope="module")
def responses():
    return load_responses()


def index_of(responses, name):
    return [probe.name for probe in responses.optics].index(name)


def second_moments(kernel):
    axis = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    return (kernel.sum(0) @ axis**2) / kernel.sum(), (kernel.sum(1) @ axis**2) / kernel.sum()  # along x, along y


def test_reading_the_cache_needs_nothing_beyond_the_base_install():
    script = (
        "import sys; before = set(sys.modules); from spm_training.simulate.responses import load_responses; load_responses(); "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new & {'abtem', 'ase', 'dask', 'torch'}))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8", check=True)
    assert ran.stdout.strip() == "[]"


def test_the_cache_is_small_and_read_once():
    assert RESPONSES_PATH.stat().st_size < 3e6
    assert load_responses() is load_responses()
    assert not load_responses().table.flags.writeable


def test_table_and_its_axes_agree(responses):
    assert responses.elements == ELEMENTS
    side = 2 * round(responses.radius_nm / responses.step_nm) + 1
    assert responses.table.shape == (len(responses.optics), len(ELEMENTS), side, side)
    assert responses.table.dtype == np.float32
    assert len({probe.name for probe in responses.optics}) == len(responses.optics) >= 12


def test_a_response_is_a_fraction_of_the_probe_with_its_peak_near_the_atom(responses):
    table, middle = responses.table, responses.table.shape[-1] // 2
    assert np.all(np.isfinite(table))
    assert table.min() >= 0
    assert 0.01 < table.max() < 0.5
    around = table[..., middle - 4 : middle + 5, middle - 4 : middle + 5].max((-2, -1))
    assert np.all(around >= 0.97 * table.max((-2, -1)))


def test_every_response_has_ended_at_the_radius_of_the_table(responses):
    axis = (np.arange(responses.table.shape[-1]) - responses.table.shape[-1] // 2) * responses.step_nm
    distance = np.hypot(axis[:, None], axis[None, :])
    peak = responses.table.max((-2, -1))
    assert np.all(responses.table[..., distance >= responses.radius_nm] < 1e-6 * peak[..., None])
    before_the_fade = responses.table[..., (distance > 0.29) & (distance < 0.33)].mean(-1)
    focused = [probe.defocus_nm == 0 and probe.astigmatism_nm == 0 for probe in responses.optics]
    assert np.all(before_the_fade[focused] < 0.005 * peak[focused])
    assert np.all(before_the_fade < 0.04 * peak)


def test_both_mirrors_leave_every_response_as_it_is(responses):
    np.testing.assert_array_equal(responses.table, responses.table[..., ::-1, :])
    np.testing.assert_array_equal(responses.table, responses.table[..., ::-1])


def test_probes_without_astigmatism_are_round_and_those_with_it_are_not(responses):
    middle = responses.table.shape[-1] // 2
    radius = 15
    diagonal = round(radius / np.sqrt(2))
    for row, probe in enumerate(responses.optics):
        kernel = responses.kernel(row, {"Mo": 1})
        along_x, along_y = second_moments(kernel)
        if probe.astigmatism_nm == 0:
            np.testing.assert_array_equal(kernel, kernel.T)
            on_a_diagonal = kernel[middle + diagonal, middle + diagonal]
            radii = np.array([middle + np.hypot(diagonal, diagonal)])
            assert on_a_diagonal == pytest.approx(
                np.interp(radii, np.arange(kernel.shape[0]), kernel[middle])[0], abs=0.01 * float(kernel.max())
            )
        elif (
            probe.defocus_nm == 0
        ):  # focused before and behind the specimen by the same length: a cross, equal along both axes
            assert along_x == pytest.approx(along_y, rel=0.05)
            assert abs(kernel[middle + diagonal, middle + diagonal] / kernel[middle, middle + radius] - 1) > 0.1
        else:  # the rays in the plane of the larger |defocus| are the more blurred
            blur_x, blur_y = abs(probe.defocus_nm - probe.astigmatism_nm), abs(probe.defocus_nm + probe.astigmatism_nm)
            assert (along_x > 1.2 * along_y) == (blur_x > blur_y)
            assert (along_y > 1.2 * along_x) == (blur_y > blur_x)


def test_the_signal_grows_with_a_power_of_the_atomic_number(responses):
    elements = sorted(ATOMIC_NUMBERS, key=ATOMIC_NUMBERS.__getitem__)
    z = np.array([ATOMIC_NUMBERS[element] for element in elements])
    for row, probe in enumerate(responses.optics):
        total = np.array([responses.kernel(row, {element: 1}).sum() for element in elements])
        # Lighter elements may differ by a few per cent from a power law, so neighbours are compared only two and more apart.
        apart = z[None, :] - z[:, None] >= 4
        assert np.all((total[None, :] > total[:, None])[apart]), probe.name
        exponent = np.polyfit(np.log(z), np.log(total), 1)[0]
        assert 1.3 < exponent < 1.95, (probe.name, exponent)


def test_a_defocused_probe_is_broader_and_lower(responses):
    focused = responses.kernel(index_of(responses, "60 kV 30 mrad, focused, HAADF"), {"W": 1})
    underfocused = responses.kernel(index_of(responses, "60 kV 32 mrad, underfocused, HAADF"), {"W": 1})
    assert underfocused.max() < 0.8 * focused.max()
    assert underfocused.sum() == pytest.approx(
        focused.sum(), rel=0.1
    )  # the same detector: the electrons are only spread


@given(row=st.integers(0, 11), molybdenum=st.floats(0, 20), sulphur=st.integers(0, 40))
def test_a_column_is_the_sum_of_its_atoms(row, molybdenum, sulphur):
    responses = load_responses()
    expected = (
        molybdenum * responses.table[row, ELEMENTS.index("Mo")] + sulphur * responses.table[row, ELEMENTS.index("S")]
    )
    kernel = responses.kernel(row, {"Mo": molybdenum, "S": sulphur})
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-7)


def test_an_empty_column_sends_nothing(responses):
    assert not responses.kernel(0, {}).any()


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        (-1, {"Mo": 1}, "optics_index"),
        (99, {"Mo": 1}, "optics_index"),
        (0, {"Xx": 1}, "'Xx'"),
        (0, {"Mo": -1}, "-1 atoms of Mo"),
        (0, {"Mo": float("nan")}, "nan atoms of Mo"),
    ],
)
def test_a_wrong_request_is_refused(responses, row, column, words):
    with pytest.raises(ParameterError, match=words):
        responses.kernel(row, column)


def molybdenum_disulphide():
    """2H MoS₂ seen along [001]: ``(48, 3)`` positions in nm, elements, the periodic box and the sides of a rectangular cell.

    The box is cut in three slices with a layer of atoms in the middle of each.
    """
    a, height = 0.316, 0.313
    cell = np.array([a, a * np.sqrt(3)])
    sites = {
        "Mo": [(0.0, 0.0, 0.5), (0.5, 0.5, 0.5)],
        "S": [(x, y, z) for x, y in [(0.5, 1 / 6), (0.0, 2 / 3)] for z in (0, 1)],
    }
    positions, elements = [], []
    for element, fractions in sites.items():
        for fx, fy, fz in fractions:
            for i in range(4):
                for j in range(2):
                    positions.append(((fx + i) * cell[0], (fy + j) * cell[1], (0.25 + fz) * height))
                    elements.append(element)
    return np.array(positions), np.array(elements), np.array([4 * cell[0], 2 * cell[1], 1.5 * height]), cell


def summed_response(responses, row, element, positions, box, probed):
    """Signal of all atoms of an element at the probe positions, out of the tables, in the periodic box."""
    axis = (np.arange(responses.table.shape[-1]) - responses.table.shape[-1] // 2) * responses.step_nm
    table = RectBivariateSpline(axis, axis, responses.kernel(row, {element: 1}))
    away = probed[:, None] - positions[None, :, :2]
    away -= box[:2] * np.round(away / box[:2])
    inside = np.abs(away).max(-1) <= axis[-1]
    x, y = np.clip(away, axis[0], axis[-1]).transpose(2, 0, 1)
    return np.where(inside, table(y, x, grid=False), 0).sum(1)


def full_multislice(abtem, atoms, probe, probed):
    """Signal of the whole specimen, with the sampling that the heights of the tables were calculated with."""
    abtem.config.set({"fftw.planning_effort": "FFTW_ESTIMATE"})  # or planning takes longer than the transforms
    potential = abtem.Potential(
        atoms,
        sampling=0.6 * 10 * wavelength_nm(probe.energy_kev) / (3e-3 * probe.outer_mrad),
        slice_thickness=atoms.cell.lengths()[2] / 3,
        parametrization="lobato",
        projection="infinite",
    )
    wave = abtem.Probe(
        energy=probe.energy_kev * 1e3, semiangle_cutoff=probe.semiangle_mrad, defocus=probe.defocus_nm * 10
    )
    wave.grid.match(potential)
    detector = abtem.AnnularDetector(inner=probe.inner_mrad, outer=probe.outer_mrad)
    scanned = wave.scan(potential, scan=abtem.CustomScan(probed * 10), detectors=detector)
    return np.asarray(scanned.compute(progress_bar=False).array, dtype=np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["100 kV 30 mrad, focused, HAADF", "200 kV 25 mrad, focused, HAADF"])
def test_the_sum_of_single_atoms_is_the_image_of_a_whole_layer(responses, name):
    """R.m.s. over the cell within 1 % of the range, against multislice through all 48 atoms at once (they interfere there)."""
    abtem = pytest.importorskip(
        "abtem", reason="the reference is calculated with abTEM: pip install 'adatom[simulate]'"
    )
    ase = pytest.importorskip("ase", reason="the reference is calculated with abTEM: pip install 'adatom[simulate]'")
    row = index_of(responses, name)
    positions, elements, box, cell = molybdenum_disulphide()
    # Half a rectangular cell; the mirror at x = 0 gives the other half, so that the mean is one over the whole cell.
    probed = np.stack(np.meshgrid(np.arange(5) / 8 * cell[0], np.arange(14) / 14 * cell[1]), axis=-1).reshape(-1, 2)
    atoms = ase.Atoms(elements.tolist(), positions=positions * 10, cell=box * 10, pbc=True)
    whole = (np.arange(14)[:, None] * 5 + [0, 1, 2, 3, 4, 3, 2, 1]).ravel()
    full = full_multislice(abtem, atoms, responses.optics[row], probed)[whole]
    parts = np.stack(
        [summed_response(responses, row, e, positions[elements == e], box, probed[whole]) for e in ("Mo", "S")]
    )
    summed = parts.sum(0)

    assert np.sqrt(np.mean((summed - full) ** 2)) < 0.01 * np.ptp(full)
    assert np.corrcoef(summed, full)[0, 1] >= 0.996
    # The points off by more (4 to 5 %) are on S₂, two atoms above one another that interfere. With both heights free, none is.
    heights = np.linalg.lstsq(parts.T, full, rcond=None)[0]
    assert heights[0] == pytest.approx(1, abs=0.04)
    assert heights[1] == pytest.approx(1, abs=0.25)
    assert np.abs(heights @ parts - full).max() < 0.01 * np.ptp(full)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "element"), [("60 kV 30 mrad, astigmatic, HAADF", "Zr"), ("200 kV 10 mrad, uncorrected, HAADF", "Sr")]
)
def test_an_element_whose_shape_is_interpolated_agrees_with_its_own_multislice(responses, name, element):
    pytest.importorskip("abtem", reason="the reference is calculated with abTEM: pip install 'adatom[simulate]'")
    assert element not in SHAPE_ELEMENTS
    row = index_of(responses, name)
    probed = np.array([[0, 0], [0.03, 0.05], [0.07, 0.02], [0.1, 0.1], [0, 0.15], [0.2, 0.05], [0.15, 0]])
    direct = single_atom(element, responses.optics[row], probed, fineness=0.5)
    box = np.full(2, 10.0)
    table = summed_response(responses, row, element, np.zeros((1, 3)), box, probed)
    assert table[0] == pytest.approx(direct[0], rel=0.03)
    np.testing.assert_allclose(table / table[0], direct / direct[0], atol=0.01)
