"""The five lattices beside their geometry, their noise beside its strength, and what the command writes."""

import csv
import json

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from spm_runtime.errors import ParameterError
from spm_runtime.readers import open_scan
from spm_training.simulate.stm_lattices import (
    ADATOM,
    ATOM,
    LATTICES,
    NOISE_LEVELS,
    VACANCY,
    Cut,
    Noise,
    simulate_lattice,
)
from spm_training.simulate.write_lattices import LatticeOptions, write_lattices

QUIET = Noise(position=0.0, brightness=0.0)
FLAT = Cut(0.0, 0.0, 0.0, (0.2, 0.3, 0.1))


def scene_of(name, seed=0, **options):
    options.setdefault("noise", QUIET)
    return simulate_lattice(np.random.default_rng(seed), name, **options)


def reference(name, cut, half):
    """Columns one by one, by the vector projection of the report: distances from the plane and places in it."""
    lattice = LATTICES[name]
    normal = np.array([np.tan(cut.alpha) * np.cos(cut.theta), np.tan(cut.alpha) * np.sin(cut.theta), -1.0])
    uphill = np.array([np.cos(cut.theta), np.sin(cut.theta), np.tan(cut.alpha)]) * np.cos(cut.alpha)
    level = np.array([-np.sin(cut.theta), np.cos(cut.theta), 0.0])
    turn = np.array(
        [[np.cos(cut.phi * np.pi), np.sin(cut.phi * np.pi)], [-np.sin(cut.phi * np.pi), np.cos(cut.phi * np.pi)]]
    )
    found = []
    for i in range(-13, 14):
        for j in range(-13, 14):
            for column in lattice.columns:
                x, y = np.array([i * lattice.cell[0], j * lattice.cell[1]]) + column[:2] - np.array(cut.shift[:2])
                plane = np.tan(cut.alpha) * (x * np.cos(cut.theta) + y * np.sin(cut.theta))
                z = max(k + column[2] - cut.shift[2] for k in range(-25, 26) if k + column[2] - cut.shift[2] <= plane)
                point = -np.array([x, y, z])
                projection = point @ normal / (normal @ normal) * normal
                u, v = turn @ [(-point) @ uphill, (-point) @ level]
                if max(abs(u), abs(v)) < half:
                    found.append((v, u, np.linalg.norm(projection)))
    return np.array(found)


@pytest.mark.parametrize("name", LATTICES)
def test_sites_and_brightness_are_those_of_the_papers_projection(name):
    cut = Cut(0.6, 0.5, 0.3, (0.31, 0.17, 0.44))
    spread = LATTICES[name].spread_px
    scene = scene_of(name, shape=(101, 101), cut=cut)
    expected = reference(name, cut, half=50.5 / spread)
    assert len(scene.yx_px) == len(expected)
    distance, partner = cKDTree(expected[:, :2] * spread + 50).query(scene.yx_px)
    assert distance.max() < 1e-9
    np.testing.assert_allclose(scene.brightness, 1 - 0.7 * expected[partner, 2], atol=1e-12)
    assert len(set(partner)) == len(partner)


@pytest.mark.parametrize(
    ("name", "spread_px", "neighbours_px"),
    [
        ("cubic", 10, [10] * 4 + [np.sqrt(2) * 10] * 2),
        ("bcc", 13, [np.sqrt(0.5) * 13] * 4 + [13] * 2),
        ("fcc", 18, [9] * 4 + [np.sqrt(0.5) * 18] * 2),
        ("hexagonal-1", 14, [14] * 6),
        ("hexagonal-2", 10, [10] * 2 + [np.hypot(5, 15)] * 4),
    ],
)
def test_the_printed_spreads_on_a_flat_cut(name, spread_px, neighbours_px):
    scene = scene_of(name, cut=FLAT)
    assert scene.spread_px == spread_px
    assert scene.class_index == list(LATTICES).index(name)
    middle = np.argmin(np.hypot(*(scene.yx_px - 127.5).T))
    distances = np.sort(np.hypot(*(scene.yx_px - scene.yx_px[middle]).T))[1:7]
    np.testing.assert_allclose(distances, neighbours_px, atol=1e-9)


def test_hexagonal_2_has_rows_three_halves_of_a_spacing_apart():
    y = np.unique(scene_of("hexagonal-2", cut=FLAT).yx_px[:, 0].round(6))
    np.testing.assert_allclose(np.diff(y), 15)


def test_the_tilt_makes_terraces_whose_width_it_decides():
    """A column is one lattice unit deeper after 1 / tan α units: 1 / sin α in the plane."""
    alpha = 0.2
    scene = scene_of("cubic", cut=Cut(alpha, 0.0, 0.0), shape=(64, 512))
    row = np.abs(scene.yx_px[:, 0] - 31.5) < 5.1
    order = np.argsort(scene.yx_px[row, 1])
    x, brightness = scene.yx_px[row, 1][order], scene.brightness[row][order]
    steps = x[1:][np.diff(brightness) > 0.4]
    np.testing.assert_allclose(np.diff(steps).mean(), 10 / np.sin(alpha), rtol=0.1)
    assert brightness.max() <= 1
    assert brightness.min() >= 1 - 0.7 * np.cos(alpha) - 1e-12


@pytest.mark.parametrize("name", LATTICES)
def test_atoms_are_maxima_where_the_truth_says(name):
    scene = scene_of(name, cut=FLAT, noise=Noise(position=0.03, brightness=0.1))
    peaks = np.argwhere((scene.clean == ndimage.maximum_filter(scene.clean, 5)) & (scene.clean > 0.5))
    bright = scene.yx_px[scene.brightness > 0.6]
    inside = bright[((bright > 3) & (bright < 252)).all(axis=1)]
    assert np.quantile(cKDTree(peaks).query(inside)[0], 0.95) < 1.2


@pytest.mark.parametrize("shape", [(256, 256), (1, 1), (7, 300), (300, 7)])
@pytest.mark.parametrize("name", LATTICES)
def test_any_shape_and_the_same_seed_the_same_image(name, shape):
    first, second = (
        scene_of(name, 3, shape=shape, noise=NOISE_LEVELS["high"], vacancies=0.1, adatoms=0.1) for _ in "ab"
    )
    for field, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, field))
    for image in (first.image, first.clean, first.perfect):
        assert image.shape == shape
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
    assert len(first.yx_px) == len(first.brightness) == len(first.state)


def test_the_angles_are_drawn_from_the_printed_ranges():
    rng = np.random.default_rng(0)
    cuts = [Cut.drawn(rng, LATTICES["cubic"]) for _ in range(400)]
    for values, high in (
        ([c.alpha for c in cuts], np.pi / 3),
        ([c.theta for c in cuts], np.pi / 3),
        ([c.phi for c in cuts], 1),
    ):
        assert 0 <= min(values) < 0.02 * high
        assert 0.98 * high < max(values) <= high


def test_each_noise_has_its_own_strength_and_shape():
    def noise_of(**strength):
        scene = scene_of("cubic", 1, shape=(512, 512), cut=FLAT, noise=Noise(position=0, brightness=0, **strength))
        return scene.image - scene.clean, scene

    thermal, _ = noise_of(thermal=0.2)
    assert thermal.std() == pytest.approx(0.2, rel=0.02)
    assert abs(np.mean(thermal[:, 1:] * thermal[:, :-1])) < 0.0005
    shot, scene = noise_of(shot=0.2)
    for level in (0.25, 0.75):
        near = np.abs(scene.clean - level) < 0.05
        assert shot[near].std() == pytest.approx(0.2 * np.sqrt(level), rel=0.05)
    assert abs(shot.mean()) < 0.001
    striation, scene = noise_of(striation=0.2)
    assert scene.noise_rms == pytest.approx(0.2, rel=0.05)
    assert np.mean(striation[:, 64:] * striation[:, :-64]) == pytest.approx(0.04 / np.e, rel=0.15)
    assert abs(np.mean(striation[1:] * striation[:-1])) < 0.002
    assert noise_of()[0].max() == 0


def test_a_vacancy_takes_its_atom_away_and_an_adatom_stands_one_lattice_unit_higher():
    cut = Cut(0.3, 0.2, 0.4, (0.1, 0.2, 0.3))
    scene = scene_of("hexagonal-1", 2, cut=cut, vacancies=0.05, adatoms=0.04)
    plain = scene_of("hexagonal-1", 2, cut=cut)
    np.testing.assert_array_equal(scene.perfect, plain.clean)
    assert {ATOM, VACANCY, ADATOM} == set(scene.state)
    assert np.mean(scene.state == VACANCY) == pytest.approx(0.05, abs=0.03)
    difference = scene.clean - scene.perfect
    for (y, x), brightness in zip(
        scene.yx_px[scene.state == VACANCY], scene.brightness[scene.state == VACANCY], strict=True
    ):
        i, j = round(y), round(x)
        if (
            min(i, j) > 2
            and max(i, j) < 253
            and not (scene.state[np.hypot(*(scene.yx_px - (y, x)).T) < 25] == ADATOM).any()
        ):
            assert difference[i, j] == pytest.approx(-brightness, abs=0.06)
    high = scene.brightness[scene.state == ADATOM]
    assert high.min() > 1
    assert high.max() <= 1 + 0.7 * np.cos(cut.alpha) + 1e-12
    np.testing.assert_allclose(scene.perfect_image - scene.perfect, scene.image - scene.clean, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "diamond"}, "diamond.*cubic, bcc"),
        ({"vacancies": 0.7, "adatoms": 0.4}, "add up"),
        ({"shape": (0, 4)}, "shape"),
        ({"spread_px": 0.5}, "spread_px"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(ParameterError, match=said):
        simulate_lattice(np.random.default_rng(0), **{"name": "cubic", **options})
    with pytest.raises(ParameterError, match="thermal"):
        Noise(thermal=-1)
    with pytest.raises(ParameterError, match="alpha"):
        Cut(1.2, 0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lattices") / "new"
    write_lattices(LatticeOptions(("bcc", "hexagonal-2"), 2, (48, 64), vacancies=0.1, adatoms=0.1, seed=5), folder)
    return folder


def test_files_are_calibrated_and_hold_the_truth(folder):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert [entry["type"] for entry in manifest["scenes"]] == ["bcc", "bcc", "hexagonal-2", "hexagonal-2"]
    for entry in manifest["scenes"]:
        scan = open_scan(folder / entry["image"])
        assert scan.shape == (48, 64)
        assert scan.pixel_size_nm == pytest.approx((0.4 / entry["spread_px"],) * 2, rel=1e-5)
        stem = entry["image"].removesuffix(".tif")
        assert open_scan(folder / f"{stem}-clean.tif").shape == (48, 64)
        assert (folder / f"{stem}.png").is_file()
        with (folder / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["y_px", "x_px", "brightness", "state"]
        for state, count in (("atom", "atoms"), ("vacancy", "vacancies"), ("adatom", "adatoms")):
            assert sum(row["state"] == state for row in rows) == entry[count]


def test_an_image_depends_on_seed_type_and_index_alone(folder, tmp_path):
    write_lattices(LatticeOptions(("bcc",), 3, (48, 64), vacancies=0.1, adatoms=0.1, seed=5), tmp_path / "again")
    assert (folder / "bcc-0001.tif").read_bytes() == (tmp_path / "again" / "bcc-0001.tif").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (LatticeOptions(("bbc",)), "--type bbc"),
        (LatticeOptions(noise="loud"), "--noise loud"),
        (LatticeOptions(vacancies=2), "--vacancies 2"),
        (LatticeOptions(lattice_nm=0), "--lattice-nm 0"),
    ],
)
def test_wrong_options_leave_no_folder(options, said, tmp_path):
    with pytest.raises(ParameterError, match=said):
        write_lattices(options, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command(tmp_path):
    from click.testing import CliRunner

    from spm_training.cli import cli

    words = [
        "simulate",
        "lattice",
        "--type",
        "fcc",
        "--count",
        "1",
        "--shape",
        "40",
        "48",
        "--out",
        str(tmp_path / "there"),
    ]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "1 images" in done.output
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [
        "fcc-0000-clean.tif", "fcc-0000.csv", "fcc-0000.png", "fcc-0000.tif", "manifest.json",
    ]  # fmt: skip
