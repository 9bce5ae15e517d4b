"""The library of crystal structures against textbook distances and densities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from spm_training.simulate.crystals import CRYSTALS
from spm_training.simulate.structures.bulk import ATOMIC_NUMBER, BCC, FCC, bulk_cells, fcc
from spm_training.simulate.structures.cell import MAX_ATOMS, fill, rotation
from spm_training.simulate.structures.layers import layer_cells
from spm_training.simulate.structures.mixed import SINGLE_GAP_NM, coherent_pair, join_halves

RADIUS = 5.0
#: Families whose columns do not fill the disc evenly.
UNEVEN = {"nanoparticle", "isolated-atoms"}
PERFECT = sorted({*layer_cells(), *bulk_cells()})


def cell_of(family, name):
    cells = {cell.name: cell for cell in ({**layer_cells(), **bulk_cells()})[family]}
    return cells[name]


def nearest(yx, k=1):
    return cKDTree(yx).query(yx, k=k + 1)[0][:, 1:]


def heavy(crystal):
    """Mask of the columns whose heaviest element is the heaviest of all."""
    top = np.array([max(ATOMIC_NUMBER[element] for element in kind) for kind in crystal.kinds])
    return top[crystal.kind] == top.max()


@pytest.mark.parametrize(
    ("family", "name", "distance_nm"),
    [
        # bond lengths, dumbbells and row distances as textbooks print them
        ("graphene", "graphene", 0.1421),
        ("h-bn", "h-BN, 1 layers", 0.1446),
        ("mos2-2h", "MoS2", 0.1819),
        ("diamond-110", "Si 110", 0.1358),
        ("diamond-110", "GaAs 110", 0.1413),
        ("diamond-110", "SiC 110", 0.1090),
        ("diamond-001", "Si 001", 0.1920),
        ("fcc-001", "Au 001", 0.2039),
        ("fcc-110", "Au 110", 0.2497),
        ("fcc-111", "Au 111", 0.1665),
        ("bcc-001", "W 001", 0.2238),
        ("bcc-111", "W 111", 0.2584),
        ("rocksalt-001", "MgO 001", 0.2106),
        ("perovskite-001", "SrTiO3 100", 0.1953),
        ("perovskite-110", "SrTiO3 110", 0.1381),
        ("rutile-001", "TiO2 001", 0.1265),
        ("hcp-0001", "GaN 001", 0.1841),
        ("hcp-0001", "Mg 001", 0.1853),
    ],
)
def test_nearest_distance_is_that_of_the_textbook(family, name, distance_nm):
    cell = cell_of(family, name)
    assert cell.nearest_nm() == pytest.approx(distance_nm, abs=2e-4)
    columns = fill(cell, 2.0)
    inner = np.linalg.norm(columns.yx, axis=1) < 1.5
    assert nearest(columns.yx)[inner].min() == pytest.approx(distance_nm, abs=2e-4)


#: Mass densities in g/cm³ (CRC Handbook) with the atomic masses that give them.
MASS = {"Au": 196.97, "Si": 28.086, "Ga": 69.723, "As": 74.922, "W": 183.84, "Sr": 87.62, "Ti": 47.867, "O": 15.999}
MASS |= {"Mg": 24.305, "N": 14.007, "Pb": 207.2}


@pytest.mark.parametrize(
    ("family", "name", "density"),
    [
        ("fcc-001", "Au 001", 19.3),
        ("fcc-110", "Au 110", 19.3),
        ("fcc-111", "Au 111", 19.3),
        ("bcc-001", "W 001", 19.3),
        ("bcc-111", "W 111", 19.3),
        ("diamond-110", "Si 110", 2.329),
        ("diamond-001", "GaAs 001", 5.317),
        ("rocksalt-001", "MgO 001", 3.58),
        ("perovskite-001", "SrTiO3 100", 5.12),
        ("perovskite-110", "SrTiO3 110", 5.12),
        ("perovskite-001", "PbTiO3 100", 7.97),
        ("rutile-001", "TiO2 001", 4.23),
        ("hcp-0001", "Mg 001", 1.738),
        ("hcp-0001", "GaN 001", 6.09),
    ],
)
def test_projection_keeps_the_mass_density(family, name, density):
    cell = cell_of(family, name)
    mass = sum(MASS[element] * n for content in cell.contents for element, n in content.items())
    grams_per_cm3 = mass / 602.214 / (cell.area_nm2 * cell.period_nm)
    assert grams_per_cm3 == pytest.approx(density, rel=0.01)


@pytest.mark.parametrize("family", ["mos2-2h", "ws2-2h", "wse2-2h"])
def test_dichalcogenide_is_a_honeycomb_of_one_metal_and_two_chalcogens(family, rng):
    crystal = CRYSTALS[family](rng, RADIUS)
    assert sorted(n for kind in crystal.kinds for n in kind.values()) == [1.0, 2.0]
    tree = cKDTree(crystal.yx_nm)
    distance, index = tree.query(crystal.yx_nm, k=5)
    inner = np.linalg.norm(crystal.yx_nm, axis=1) < RADIUS - 0.5
    bond = distance[inner, 1]
    np.testing.assert_allclose(distance[inner, 1:4], bond[:, None] * np.ones(3), rtol=1e-9)  # three neighbours …
    np.testing.assert_allclose(distance[inner, 4], np.sqrt(3) * bond, rtol=1e-9)  # … and then a gap
    assert (crystal.sublattice[index[inner, 1:4]] != crystal.sublattice[inner, None]).all()


def test_graphene_has_the_density_of_carbon_in_a_sheet():
    cell = cell_of("graphene", "graphene")
    assert len(cell.contents) / cell.area_nm2 == pytest.approx(38.2, abs=0.1)  # atoms per nm²


def test_octahedral_dichalcogenide_has_six_chalcogens_around_a_metal(rng):
    crystal = CRYSTALS["tmd-1t"](rng, RADIUS)
    metal = crystal.sublattice == 0
    inner = metal & (np.linalg.norm(crystal.yx_nm, axis=1) < RADIUS - 0.6)
    distance = cKDTree(crystal.yx_nm[~metal]).query(crystal.yx_nm[inner], k=7)[0]
    np.testing.assert_allclose(distance[:, :6], distance[0, 0], rtol=1e-6)
    assert distance[:, 6].min() > 1.5 * distance[0, 0]


def test_res2_has_chains_of_diamonds(rng):
    """Re–Re distances along the chain as the fractional coordinates give them, projected; the chains 0.378 nm apart or more."""
    crystal = CRYSTALS["res2-1t"](rng, RADIUS)
    re = heavy(crystal)
    assert set(crystal.sublattice[re]) == {0, 1, 2, 3}
    assert len(set(crystal.sublattice)) == 12
    assert (~re).sum() / re.sum() == pytest.approx(2, abs=0.05)
    yx = crystal.yx_nm[re]
    inner = np.linalg.norm(yx, axis=1) < RADIUS - 1
    near = nearest(yx, 4)[inner]
    outer = np.isin(crystal.sublattice[re][inner], (0, 1))
    np.testing.assert_allclose(
        near[outer, :4] * np.ones((outer.sum(), 4)), [[0.2872, 0.2895, 0.3011, 0.3783]] * outer.sum(), atol=2e-4
    )
    np.testing.assert_allclose(near[~outer, :3], [[0.2758, 0.2872, 0.2895]] * (~outer).sum(), atol=2e-4)
    # every S caps a triangle: three Re around it, at a quarter of a nanometre at most
    s = crystal.yx_nm[~re]
    s = s[np.linalg.norm(s, axis=1) < RADIUS - 1]
    assert cKDTree(yx).query(s, k=3)[0].max() < 0.25


def test_mote2_has_zigzag_chains_in_the_1t_prime_phase():
    cell = cell_of("mote2", "MoTe2 1T'")
    assert list(cell.contents).count({"Mo": 1.0}) == 2
    columns = fill(cell, 3.0)
    mo = columns.yx[columns.site < 2]
    inner = np.linalg.norm(mo, axis=1) < 2
    near = nearest(mo, 3)[inner]
    # Mo–Mo 0.29 nm along the zigzag (D. Clarke et al., Phil. Mag. B 38 (1978) 121), then the translation b
    np.testing.assert_allclose(near[:, :2], 0.290, atol=3e-3)
    np.testing.assert_allclose(near[:, 2], 0.3469, atol=1e-6)


def test_polar_perovskite_shows_its_displacement():
    """In PbTiO3 the Ti lies 0.0377 of c off the middle between the Pb; in SrTiO3 it lies at the middle."""
    for name, shift, c in (("PbTiO3 100", 0.0377, 0.4152), ("SrTiO3 100", 0.0, 0.3905)):
        cell = cell_of("perovskite-001", name)
        ti = next(i for i, content in enumerate(cell.contents) if "Ti" in content)
        fractional = (cell.yx_nm[ti] - cell.yx_nm[0]) @ np.linalg.inv(cell.vectors_nm)
        off = np.abs((fractional % 1 - 0.5) @ cell.vectors_nm)
        np.testing.assert_allclose(np.sort(off), [0, shift * c], atol=1e-6)


@pytest.mark.parametrize("family", sorted(CRYSTALS))
def test_same_seed_same_crystal(family):
    one, two = (CRYSTALS[family](np.random.default_rng(7), 3.0) for _ in range(2))
    other = CRYSTALS[family](np.random.default_rng(8), 3.0)
    assert np.array_equal(one.yx_nm, two.yx_nm)
    assert np.array_equal(one.kind, two.kind)
    assert np.array_equal(one.sublattice, two.sublattice)
    assert np.array_equal(one.amorphous, two.amorphous)
    assert one.kinds == two.kinds
    assert not np.array_equal(one.yx_nm, other.yx_nm)


@pytest.mark.parametrize("family", sorted(CRYSTALS))
def test_arrays_agree_and_columns_hold_atoms(family, rng):
    for _ in range(10):
        crystal = CRYSTALS[family](rng, 4.0)
        n = len(crystal.yx_nm)
        assert n > 0
        assert crystal.yx_nm.shape == (n, 2)
        assert crystal.yx_nm.dtype == np.float64
        assert crystal.kind.shape == crystal.sublattice.shape == (n,)
        assert crystal.kind.dtype == crystal.sublattice.dtype == np.int32
        assert np.linalg.norm(crystal.yx_nm, axis=1).max() <= 4.0 + 1e-9
        assert crystal.kind.min() >= 0
        assert crystal.kind.max() < len(crystal.kinds)
        assert crystal.sublattice.min() >= 0
        for kind in crystal.kinds:
            assert set(kind) <= set(ATOMIC_NUMBER)
            assert all(1 <= atoms <= MAX_ATOMS and atoms == int(atoms) for atoms in kind.values())
        assert bool(crystal.amorphous_element) == bool(len(crystal.amorphous)) == (family in UNEVEN)


@pytest.mark.parametrize("family", sorted(CRYSTALS))
def test_no_two_columns_are_nearer_than_images_can_tell(family, rng):
    """0.085 nm is the dumbbell of diamond, the closest of all; at interfaces 15 % less than in the bulk."""
    limit = (
        SINGLE_GAP_NM
        if family == "isolated-atoms"
        else 0.07
        if family in ("grain-boundary", "heterostructure")
        else 0.085
    )
    for _ in range(20):
        crystal = CRYSTALS[family](rng, 3.0)
        if len(crystal.yx_nm) > 1:
            assert nearest(crystal.yx_nm).min() >= limit - 1e-9


@pytest.mark.parametrize("family", sorted(set(CRYSTALS) - UNEVEN))
def test_the_disc_is_filled_evenly(family, rng):
    """Eight sectors, inner and outer half, hold the same number of columns, up to the rim; at interfaces two densities."""
    for _ in range(5):
        crystal = CRYSTALS[family](rng, RADIUS)
        r, angle = np.linalg.norm(crystal.yx_nm, axis=1), np.arctan2(*crystal.yx_nm.T)
        sector = ((angle + np.pi) // (np.pi / 4)).astype(int).clip(0, 7)
        ring = (r > RADIUS / np.sqrt(2)).astype(int)
        counts = np.bincount(sector + 8 * ring, minlength=16)
        limits = (0.3, 2.2) if family in ("heterostructure", "grain-boundary") else (0.7, 1.3)
        assert counts.min() > limits[0] * counts.mean()
        assert counts.max() < limits[1] * counts.mean()


@pytest.mark.parametrize("family", PERFECT)
def test_count_is_area_times_density(family):
    for cell in ({**layer_cells(), **bulk_cells()})[family]:
        expected = np.pi * RADIUS**2 * len(cell.contents) / cell.area_nm2
        assert len(fill(cell, RADIUS).yx) == pytest.approx(expected, rel=0.02)


def test_elements_and_directions_of_fcc_and_bcc_metals():
    assert {cell.name.split()[0] for cell in bulk_cells()["fcc-110"]} == set(FCC)
    assert {cell.name.split()[0] for cell in bulk_cells()["bcc-111"]} == set(BCC)
    # one lattice plane distance along the beam: a, a/√2 and a√3
    for zone, factor in (((0, 0, 1), 1.0), ((1, 1, 0), 0.5**0.5), ((1, 1, 1), 3**0.5)):
        assert fcc("Au", zone).period_nm == pytest.approx(FCC["Au"] * factor)


def test_grain_boundary_has_the_tilt_it_was_given(rng):
    """The fourfold order parameter of W along 001 has one phase on each side, apart by four times the tilt."""
    cell = cell_of("bcc-001", "W 001")
    tilt = np.radians(20)
    crystal = join_halves(rng, RADIUS, (cell, cell), [rotation(0), rotation(tilt)], [np.zeros(2), np.array([0.1, 0.1])])
    inner = np.linalg.norm(crystal.yx_nm, axis=1) < RADIUS - 0.5
    distance, index = cKDTree(crystal.yx_nm).query(crystal.yx_nm, k=5)
    step = crystal.yx_nm[index[:, 1:]] - crystal.yx_nm[:, None]
    order = np.exp(4j * np.arctan2(step[..., 0], step[..., 1])).mean(axis=1)
    in_grain = inner & (distance[:, 4] < 1.01 * cell.nearest_nm()) & (np.abs(order) > 0.999)
    phases = np.unique(np.angle(order[in_grain] / order[in_grain][0]).round(4))
    np.testing.assert_allclose(np.abs(phases[-1] - phases[0]), 4 * tilt, atol=1e-3)
    assert len(phases) == 2
    assert in_grain.sum() > 0.75 * inner.sum()  # and hardly anything else


def test_grain_boundary_leaves_no_wide_gap(rng):
    for _ in range(10):
        crystal = CRYSTALS["grain-boundary"](rng, 4.0)
        probe = 3.5 * (rng.random((2000, 2)) - 0.5) * np.sqrt(2)
        hole = cKDTree(crystal.yx_nm).query(probe)[0].max()
        assert hole < 0.5  # the widest hole in a perfect crystal of the family (PbTe, CdTe) is 0.25 nm from its columns


def test_coherent_interface_continues_the_lattice(rng):
    """Across it the nearest distances stay within the misfit that is allowed, and no column is missing or doubled."""
    for _ in range(30):
        cells = coherent_pair(rng)
        assert cells[0].vectors_nm[0, 1] == pytest.approx(cells[1].vectors_nm[0, 1])
        crystal = join_halves(rng, 3.0, cells, [np.eye(2)] * 2, [np.array([1e-6, 0.0])] * 2)
        inner = np.linalg.norm(crystal.yx_nm, axis=1) < 2.2
        bounds = sorted(cell.nearest_nm() for cell in cells)
        distance = nearest(crystal.yx_nm)[inner]
        assert distance.min() > 0.85 * bounds[0]
        density = [len(cell.contents) / cell.area_nm2 for cell in cells]
        count = len(crystal.yx_nm) / (np.pi * 9)
        assert 0.95 * min(density) < count < 1.05 * max(density)


def test_two_materials_share_no_sublattice(rng):
    seen = 0
    for _ in range(20):
        crystal = CRYSTALS["heterostructure"](rng, 3.0)
        sites = {
            int(site): frozenset(np.unique(crystal.kind[crystal.sublattice == site]))
            for site in set(crystal.sublattice)
        }
        assert all(len(kinds) == 1 for kinds in sites.values())  # each site has one content
        seen = max(seen, len(sites))
    assert seen >= 4


def test_particles_are_thinner_at_the_rim(rng):
    """Within one particle a column holds the more atoms the nearer it is to the particle's centre."""
    for _ in range(10):
        crystal = CRYSTALS["nanoparticle"](rng, 1.5)  # a disc smaller than the particle sees a part of it
        assert len(crystal.kinds) == MAX_ATOMS
    crystal = next(
        c for c in (CRYSTALS["nanoparticle"](np.random.default_rng(s), 5.0) for s in range(50)) if len(c.yx_nm) < 400
    )
    atoms = crystal.kind + 1
    centre = crystal.yx_nm.mean(axis=0)
    r = np.linalg.norm(crystal.yx_nm - centre, axis=1)
    assert np.corrcoef(r, atoms)[0, 1] < -0.6
    assert atoms[r < r.max() / 3].min() > np.median(atoms[r > 0.9 * r.max()])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 10))
def test_single_atoms_keep_their_distance(seed, radius):
    crystal = CRYSTALS["isolated-atoms"](np.random.default_rng(seed), radius)
    assert len(crystal.yx_nm) / (np.pi * radius**2) < 14  # random sequential addition jams there
    if len(crystal.yx_nm) > 1:
        assert nearest(crystal.yx_nm).min() >= SINGLE_GAP_NM


def test_film_has_the_density_of_amorphous_carbon(rng):
    films = [CRYSTALS["isolated-atoms"](rng, 4.0) for _ in range(20)]
    per_nm2 = np.array([len(film.amorphous) for film in films]) / (np.pi * 16)
    assert per_nm2.min() > 95
    assert per_nm2.max() < 410
    assert {film.amorphous_element for film in films} == {"C"}


def test_alloy_substitutes_at_random(rng):
    """Columns of n atoms hold a binomial number of one element: mean and variance of the share agree with it."""
    for _ in range(30):
        crystal = CRYSTALS["alloy"](rng, 8.0)
        host = crystal.sublattice == 0
        total = sum(crystal.kinds[crystal.kind[host][0]].values())
        first = next(iter(crystal.kinds[1]))
        count = np.array([kind.get(first, 0.0) for kind in crystal.kinds])[crystal.kind[host]]
        share = count.mean() / total
        assert 0.05 < share < 0.95
        assert count.var() == pytest.approx(total * share * (1 - share), rel=0.2)


def test_random_crystals_span_the_spacings(rng):
    mean = []
    for _ in range(100):
        crystal = CRYSTALS["random-crystal"](rng, 3.0)
        inner = np.linalg.norm(crystal.yx_nm, axis=1) < 2.5
        distance = nearest(crystal.yx_nm)[inner]
        assert distance.min() > 0.7 * 0.15 - 1e-9
        mean.append(distance.mean())
    assert 0.14 < min(mean) < 0.2
    assert 0.35 < max(mean) < 0.42
