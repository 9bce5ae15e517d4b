"""The defects pipeline with networks that know the answer: what is lost or moved is the pipeline's own."""

from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from spm_runtime.errors import ScanError
from spm_runtime.pipelines import defects as module
from spm_runtime.pipelines.defect_groups import patches_around
from spm_runtime.pipelines.defects import find_defects
from spm_runtime.pipelines.surface import SPREAD_UNIT_NM
from spm_runtime.pipelines.unexplained import alarm_level
from spm_runtime.results import ModelReference
from spm_runtime.scan import Scan

#: Depth or height of all defects, and the noise.
HEIGHT_NM, NOISE_NM = 0.1, 0.002
DEFAULTS = {"lower_bound": 0.4, "confirm": 0.0, "unexplained": 0.0, "false_alarms": 0.1}
PATCHES = {
    "clip_percent": 0.0,
    "clusters": 2,
    "smoothing_px": 2.0,
    "novelty_distance": 1.0,
    "target_clusters": [],
    "mixture_classes": [[0.8, 0.2], [0.0, 1.0]],
}


class Oracle:
    """Takes every blob that is half as high as the defects for one; pits are vacancies, hills are adatoms.

    Parameters
    ----------
    sees
        Signs of what it knows: −1 for pits, 1 for hills.
    half
        Half the height in units of the spread of the image; None reads the spread from its channel.
    """

    provider = "CPUExecutionProvider"
    warnings = ()

    def __init__(self, *, sees=(-1, 1), half=None, attached=()) -> None:
        self.sees, self.half = sees, half
        settings = {"classes": ["vacancy", "adatom"], "channels": ["fine", "coarse", "spread", "pixel"], **PATCHES}
        self.package = SimpleNamespace(
            name="defects", task="defects", reference=ModelReference("defects", "1", "0" * 64), modalities=("stm",),
            pixel_size_nm=(0.005, 0.7), size_multiple=16, halo_px=16, inputs=(SimpleNamespace(id="image"),),
            settings=MappingProxyType(settings), attached=MappingProxyType({name: name for name in attached}),
        )  # fmt: skip
        self.seen = []

    def run(self, inputs):
        image = inputs["image"][0]
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert all(size % 16 == 0 for size in image.shape[1:])
        self.seen.append(image)
        fine, coarse, spread, _ = image
        half = 0.5 * HEIGHT_NM / (SPREAD_UNIT_NM * np.exp(spread[0, 0])) if self.half is None else self.half
        shape = fine.shape
        presence, radius, kind = np.zeros(shape), np.ones(shape), np.full((2, *shape), 0.5)
        inside = np.zeros(shape)
        places = np.indices(shape)
        for sign in self.sees:
            blobs, count = ndimage.label(sign * np.sinh(fine) > half)
            for number in range(1, count + 1):
                blob = blobs == number
                centre = np.array(ndimage.center_of_mass(blob))
                square = ((places - centre[:, None, None]) ** 2).sum(axis=0)
                radius = np.where(square < 100, np.sqrt(blob.sum() / np.pi), radius)
                kind = np.where(square < 100, np.array([0.2, 0.8])[:: int(sign), None, None], kind)
                presence = np.maximum(presence, 0.9 * np.exp(-0.5 * square / 2))
                inside[blob] = 0.9
        jump = np.abs(ndimage.convolve1d(coarse, [1, 0, -1], axis=1, mode="nearest"))
        outputs = {"presence": presence, "inside": inside, "step": np.where(jump > 1, 0.9, 0.1), "radius_px": radius}
        maps = {name: value.astype(np.float32)[None, None] for name, value in outputs.items()}
        return maps | {"kind": kind.astype(np.float32)[None]}


class Encoder:
    """Latents that are the windows themselves; one label for all, at a distance that is told."""

    def __init__(self, distance=0.5) -> None:
        self.distance = distance

    def run(self, inputs):
        windows = np.lib.stride_tricks.sliding_window_view(inputs["image"][0, 0, 7:-7, 7:-7], (32, 32))[::8, ::8]
        rows, columns = windows.shape[:2]
        one = np.ones((1, 1, rows, columns), np.float32)
        latent = windows.reshape(rows, columns, -1).transpose(2, 0, 1)[None]
        return {"latent": latent, "label": one, "distance": self.distance * one}


class Decoder:
    """What is bright cannot be told."""

    def run(self, inputs):
        return {"reconstruction": np.minimum(inputs["latent"], 0.7).reshape(-1, 1, 32, 32)}


class Groups:
    """Two components: the middle of a patch lies below its mean, or above it."""

    def __init__(self) -> None:
        self.seen = []

    def run(self, inputs):
        self.seen.append(inputs["patch"])
        patch = inputs["patch"][:, 0]
        assert patch.dtype == np.float32
        assert np.isfinite(patch).all()
        above = patch[:, 15:17, 15:17].mean(axis=(1, 2)) > patch.mean(axis=(1, 2))
        return {"log_probability": np.log(np.where(above[:, None], [0.1, 0.9], [0.9, 0.1])).astype(np.float32)}


@pytest.fixture
def patches(monkeypatch):
    """Networks that the package may have attached."""
    networks = {"encoder": Encoder(), "decoder": Decoder(), "classes": Groups()}
    monkeypatch.setattr(module, "shared_session", lambda package, device: networks[package])
    return networks


def scene(shape, pixel, pits, hills, *, radius_nm=0.5, seed=0, step_column=None):
    """Heights in nm: discs at places given in pixels of the scan."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    heights = NOISE_NM * rng.normal(size=shape) + 3.0
    for sign, places in ((-1, pits), (1, hills)):
        for place in places:
            on = np.hypot((y - place[0]) * pixel[0], (x - place[1]) * pixel[1]) <= radius_nm
            heights[on] += sign * HEIGHT_NM
    if step_column is not None:
        heights[:, step_column:] += 0.15
    return heights.astype(np.float32)


def stm(heights, pixel, unit="nm", **more):
    return Scan(heights, unit=unit, pixel_size_nm=pixel, modality="stm", **more)


def look(scan, oracle=None, **parameters):
    oracle = Oracle() if oracle is None else oracle
    return find_defects(scan, oracle.package, oracle, DEFAULTS | parameters)


def matched(defects, places, tolerance):
    """Index of the defect at each place; every one has one of its own."""
    distance = np.hypot(*(defects.yx_px[:, None] - np.asarray(places, float)[None]).transpose(2, 0, 1))
    assert (distance.min(axis=0) < tolerance).all()
    index = distance.argmin(axis=0)
    assert len(set(index.tolist())) == len(places)
    return index


def by_name(result):
    return {one.name: one for one in result.maps}


# Places, extents and classes


@pytest.mark.parametrize(
    "pixel", [(0.02, 0.02), (0.03, 0.02), (0.07, 0.07), (0.08, 0.08), (0.1, 0.1), (0.1, 0.05)], ids=str
)
def test_every_defect_is_found_where_it_is_with_its_extent(pixel):
    """In pixels of the scan, whether they are averaged, stay or are not square; at the border too."""
    shape = tuple(round(8.0 / p) for p in pixel)
    nm_pits, nm_hills = [(2.0, 2.0), (6.2, 3.0), (0.0, 5.0)], [(3.0, 6.1), (6.0, 6.0)]
    pits, hills = (np.array(places) / pixel for places in (nm_pits, nm_hills))
    result = look(stm(scene(shape, pixel, pits, hills), pixel))
    found, places = result.defects, np.concatenate([pits, hills])
    assert len(found) == 5
    working = max(0.08, *pixel)
    index = matched(found, places, 0.25 / min(pixel))
    whole = index[[0, 1, 3, 4]]
    np.testing.assert_allclose((found.yx_px[whole] - places[[0, 1, 3, 4]]) * pixel, 0, atol=0.4 * working)
    np.testing.assert_allclose(found.area_px[whole] * np.prod(pixel), np.pi * 0.25, rtol=0.15)
    np.testing.assert_allclose(found.size_px[whole] * pixel, 1.0, atol=1.5 * working)
    np.testing.assert_allclose(found.yx_px[index[2], 1] * pixel[1], 5.0, atol=0.5 * working)
    # The frame cuts a defect in half.
    assert found.area_px[index[2]] * np.prod(pixel) == pytest.approx(np.pi / 8, rel=0.3)
    assert found.size_px[index[2], 0] * pixel[0] == pytest.approx(0.5, abs=1.5 * working)
    assert [found.names[k] for k in found.kind[index]] == ["vacancy"] * 3 + ["adatom"] * 2
    np.testing.assert_allclose(found.probability, 0.8, rtol=1e-5)
    assert (found.confirmed == -1).all()
    assert (np.diff(found.score) <= 0).all()
    assert result.quantities["defects_per_nm2"] == pytest.approx(5 / 64, rel=0.02)


@pytest.mark.parametrize("pixel", [(0.02, 0.02), (0.1, 0.05), None], ids=str)
def test_maps_have_the_shape_of_the_scan_and_lie_on_it(pixel, patches):
    given = pixel or (0.1, 0.1)
    shape = tuple(round(8.0 / p) for p in given)
    pits, hills = (np.array(places) / given for places in ([(2.0, 2.0)], [(6.0, 5.0)]))
    heights = scene(shape, given, pits, hills)
    oracle = Oracle(attached=("encoder", "decoder"), half=None if pixel else 20.0)
    result = look(stm(heights, pixel), oracle)
    maps = by_name(result)
    assert list(maps) == ["mask", "steps", "class_map", "character_map", "error_map"]
    kinds = {"mask": bool, "steps": bool, "class_map": np.uint8, "character_map": np.uint8, "error_map": np.float32}
    for name, one in maps.items():
        assert one.data.shape == shape
        assert one.data.dtype == kinds[name]
    quiet = scene(shape, given, [], [])
    for truth, number in ((heights - quiet < -0.05, 1), (heights - quiet > 0.05, 2)):
        both = (maps["class_map"].data == number) & truth
        either = (maps["class_map"].data == number) | truth
        assert both.sum() > 0.8 * either.sum()
        # To less than half of a working pixel.
        drawn = ndimage.center_of_mass(maps["class_map"].data == number)
        off = (np.array(drawn) - ndimage.center_of_mass(truth)) * given
        assert np.abs(off).max() < 0.04
        assert maps["mask"].data[truth].mean() > 0.8
    assert maps["class_map"].labels == ("none", "vacancy", "adatom", "other")
    assert maps["character_map"].labels == ("none", "cluster 1", "cluster 2")
    assert (maps["character_map"].data == 2).all()
    assert not maps["steps"].data.any()
    # The decoder cannot tell what is bright.
    error = maps["error_map"].data
    assert np.isfinite(error).all()
    assert error[heights - quiet > 0.05].mean() > 20 * np.median(error)
    assert set(result.timings_s) == {"finder", "patches", "mask", "maps"}


def test_a_step_is_a_step_and_its_length_is_told():
    pixel = (0.1, 0.1)
    result = look(stm(scene((120, 100), pixel, [(60, 20)], [], step_column=60), pixel))
    steps = by_name(result)["steps"].data
    assert len(result.defects) == 1
    assert steps[:, 58:62].any(axis=1).mean() > 0.95
    assert not steps[:, :50].any()
    assert not steps[:, 70:].any()
    assert result.quantities["step_length_nm"] == pytest.approx(12.0, rel=0.1)
    assert result.quantities["step_length_px"] == pytest.approx(120.0, rel=0.1)


def test_the_length_of_steps_in_pixels_of_a_fine_scan():
    pixel = (0.04, 0.04)
    result = look(stm(scene((200, 200), pixel, [], [], step_column=90), pixel))
    assert result.quantities["step_length_nm"] == pytest.approx(8.0, rel=0.1)
    assert result.quantities["step_length_px"] == pytest.approx(200.0, rel=0.1)


@pytest.mark.parametrize(("slope", "length"), [(0.0, 60.0), (1.0, 60 * np.sqrt(2)), (0.5, 60 * np.sqrt(1.25))])
@pytest.mark.parametrize("width", [1.2, 3.0])
def test_lengths_of_lines(slope, length, width):
    y, x = np.mgrid[:60, :100]
    line = np.abs(x - 20 - slope * y) <= width / 2
    assert module._length_px(line) == pytest.approx(length, rel=0.1)
    assert module._length_px(np.zeros((5, 5), bool)) == 0


# What is missing


@pytest.mark.parametrize("pixel", [(0.02, 0.02), (0.1, 0.1)], ids=str)
def test_missing_rows_are_silent(pixel, patches):
    shape = tuple(round(9.0 / p) for p in pixel)
    pits, hills = (np.array(places) / pixel for places in ([(2.0, 2.0)], [(3.0, 6.1), (7.5, 5.0)]))
    heights = scene(shape, pixel, pits, hills)
    edge = round(5.0 / pixel[0])
    heights[edge:] = np.nan
    oracle = Oracle(attached=("encoder", "decoder"))
    result = look(stm(heights, pixel), oracle, unexplained=1.0)
    matched(result.defects, np.concatenate([pits, hills[:1]]), 5)
    assert len(result.defects) == 2
    for name, one in by_name(result).items():
        if name == "error_map":
            assert np.isnan(one.data[edge:]).all()
            assert np.isfinite(one.data[:edge]).all()
        else:
            assert not one.data[edge:].any()
    assert not by_name(result)["steps"].data.any()
    assert result.quantities["defects_per_nm2"] == pytest.approx(2 / 45, rel=0.05)


@pytest.mark.parametrize("attached", [(), ("encoder", "decoder")], ids=["finder", "all"])
@pytest.mark.parametrize("pixel", [None, (0.02, 0.02), (5.0, 5.0), (1e-4, 1e-4)], ids=str)
@pytest.mark.parametrize(
    "image", [np.full((40, 50), np.nan), np.full((40, 50), 3e-9), np.ones((1, 1)), np.ones((1, 60))]
)
def test_images_without_anything_give_nothing_and_no_error(image, pixel, attached, patches):
    result = look(stm(image, pixel, "m"), Oracle(attached=attached), unexplained=1.0)
    assert len(result.defects) == 0
    assert result.defects.yx_px.shape == result.defects.size_px.shape == (0, 2)
    assert result.defects.names == ("vacancy", "adatom", "other")
    for one in result.maps:
        assert one.data.shape == image.shape
        if one.data.dtype != np.float32 and one.name != "character_map":
            assert not one.data.any()
    assert result.quantities["step_length_px"] == 0
    if pixel is not None:
        assert result.quantities["defects_per_nm2"] == 0


# Calibration and units


def test_a_scan_without_calibration():
    heights = scene((100, 100), (0.1, 0.1), [(30, 30)], [(70, 60)])
    oracle = Oracle(half=20.0)
    result = look(Scan(heights), oracle)
    assert set(result.quantities) == {"step_length_px"}
    matched(result.defects, [(30, 30), (70, 60)], 1.0)
    np.testing.assert_array_equal(oracle.seen[0][2:], 0)
    (warning,) = result.warnings
    assert "--pixel-size-nm" in warning


@pytest.mark.parametrize(
    ("unit", "gain", "known"), [("m", 1e-9, True), ("pm", 1e3, True), ("A", 1e-11, False), ("V", 1, False)]
)
def test_units_change_nothing_but_what_is_known(unit, gain, known, patches, monkeypatch):
    """A current has no height, and no terraces; metres are as good as nanometres."""
    terraces = []
    whole = module.find_terraces

    def counted(heights, pixel):
        terraces.append(heights)
        return whole(heights, pixel)

    monkeypatch.setattr(module, "find_terraces", counted)
    heights = scene((100, 100), (0.1, 0.1), [(30, 30)], [(70, 60)])
    oracle = Oracle(attached=("encoder", "decoder"), half=None if known else 20.0)
    result = look(stm(gain * heights, (0.1, 0.1), unit), oracle)
    matched(result.defects, [(30, 30), (70, 60)], 1.0)
    np.testing.assert_allclose(result.defects.area_px, np.pi * 25, rtol=0.1)
    assert bool(oracle.seen[0][2].any()) == known
    assert len(terraces) == known
    if known:  # in nanometres
        assert np.nanmax(np.abs(terraces[0])) == pytest.approx(HEIGHT_NM, rel=0.2)


def test_unusual_scans_warn(patches):
    heights = scene((60, 60), (0.1, 0.1), [], [])
    text = " ".join(look(Scan(heights, pixel_size_nm=(2.0, 2.0), modality="afm")).warnings)
    assert "outside the range" in text
    assert "AFM" in text
    oracle = Oracle(attached=("encoder", "decoder"))
    assert look(stm(heights, (0.1, 0.1)), oracle).warnings == ()
    patches["encoder"].distance = 3.0
    result = look(stm(heights, (0.1, 0.1)), oracle)
    assert "unlike those" in " ".join(result.warnings)
    assert result.quantities["novelty"] == pytest.approx(3.0)


def test_a_rough_surface_warns():
    """A self-affine random field."""
    wave = 2 * np.pi * np.hypot(*np.meshgrid(np.fft.fftfreq(160, 0.1), np.fft.fftfreq(160, 0.1)))
    white = np.random.default_rng(0).normal(size=wave.shape)
    field = np.fft.ifft2(np.fft.fft2(white) * (1 + (4 * wave) ** 2) ** -0.85).real
    heights = (field * (0.5 / field.std())).astype(np.float32)
    assert "too rough" in " ".join(look(stm(heights, (0.1, 0.1))).warnings)


# What only the autoencoder sees


def test_what_the_finder_does_not_know_is_in_the_mask_and_reported_on_request(patches):
    pixel = (0.05, 0.05)
    heights = scene((180, 200), pixel, [(60, 60)], [(120, 140)])
    oracle = Oracle(attached=("encoder", "decoder"), sees=(-1,))
    quiet = look(stm(heights, pixel), oracle)
    assert len(quiet.defects) == 1
    assert by_name(quiet)["mask"].data[120, 140]
    assert by_name(quiet)["class_map"].data[120, 140] == 0
    loud = look(stm(heights, pixel), oracle, unexplained=1.0)
    index = matched(loud.defects, [(60, 60), (120, 140)], 2.0)
    assert len(loud.defects) == 2
    assert [loud.defects.names[k] for k in loud.defects.kind[index]] == ["vacancy", "other"]
    assert (np.diff(loud.defects.score) <= 0).all()
    assert by_name(loud)["class_map"].data[120, 140] == 3
    np.testing.assert_array_equal(by_name(loud)["mask"].data, by_name(quiet)["mask"].data)
    # The disc, and what smoothing and dilation add to it.
    assert 1.0 <= loud.defects.size_px[index[1]].min() * 0.05 <= loud.defects.size_px[index[1]].max() * 0.05 < 2.5
    nothing = look(stm(scene((180, 200), pixel, [], []), pixel), oracle, unexplained=1.0, false_alarms=1e-4)
    assert len(nothing.defects) == 0


def test_only_what_is_stronger_than_in_images_without_defects_is_reported(patches):
    pixel = (0.05, 0.05)
    scan = stm(scene((180, 200), pixel, [(60, 60)], [(120, 140)]), pixel)
    oracle = Oracle(attached=("encoder", "decoder"), sees=(-1,))
    strongest = look(scan, oracle).quantities["strongest_unexplained"]
    assert strongest > 1

    def reported(levels, **parameters):
        oracle.package.settings = MappingProxyType(dict(oracle.package.settings) | {"alarm_levels": levels})
        result = look(scan, oracle, unexplained=1.0, **parameters)
        assert result.quantities["strongest_unexplained"] == strongest
        assert by_name(result)["mask"].data[120, 140] == (len(result.defects) == 2)
        return len(result.defects) == 2

    assert reported([0.9 * strongest])
    assert not reported([1.1 * strongest])
    # One image in four without defects has a stronger region.
    levels = [0.0, 0.5 * strongest, 0.5 * strongest, 2 * strongest]
    assert reported(levels, false_alarms=0.4)
    assert not reported(levels, false_alarms=0.01)
    assert alarm_level({}, 0.1) == alarm_level({"alarm_levels": [0.2]}, 0.1) == 1.0


def test_what_looks_alike_is_one_group_and_names_what_has_no_name(patches):
    pixel = (0.08, 0.08)
    pits, hills = [(30, 40), (60, 75)], [(45, 100), (80, 30)]
    heights = scene((112, 128), pixel, pits, hills)
    everything = ("encoder", "decoder", "classes")
    result = look(stm(heights, pixel), Oracle(attached=everything, sees=(-1,)), unexplained=1.0)
    defects = result.defects
    index = matched(defects, pits + hills, 4.0)
    assert defects.group[index].tolist() == [1, 1, 2, 2]
    assert [defects.names[kind] for kind in defects.kind[index]] == ["vacancy", "vacancy", "adatom", "adatom"]
    assert defects.probability[index[2]] == pytest.approx(0.1 * 0.2 + 0.9, abs=1e-6)  # of the group, not of the finder
    assert defects.probability[index[0]] == pytest.approx(0.8, abs=1e-6)
    assert "groups" in result.timings_s
    assert look(stm(heights, pixel), Oracle(attached=("encoder", "decoder"))).defects.group is None


def test_patches_lie_in_the_image(patches):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(40, 70)).astype(np.float32)
    image[3, 3] = np.nan
    cut = patches_around(image, np.array([[20.0, 30.0], [0.0, 0.0], [39.0, 69.0]]))
    np.testing.assert_array_equal(cut[0], image[4:36, 14:46])
    np.testing.assert_array_equal(cut[2], image[8:, 38:])
    assert cut[1, 3, 3] == np.nanmedian(image)
    small = patches_around(image[10:30, :20], np.array([[5.0, 5.0]]))[0]
    np.testing.assert_array_equal(small[:20, :20], image[10:30, :20])
    np.testing.assert_array_equal(small[20:, :20], image[29:17:-1, :20])


def test_what_the_finder_knows_is_reported_once(patches):
    pixel = (0.1, 0.1)
    heights = scene((90, 100), pixel, [], [(45, 50)])
    result = look(stm(heights, pixel), Oracle(attached=("encoder", "decoder")), unexplained=1.0)
    assert result.defects.classes == {"adatom": 1}


# The other scan direction


def test_a_second_direction_confirms(monkeypatch):
    """What both have, three pixels apart, is confirmed; what one has is not; what the other's frame cuts off is not known."""
    pixel = (0.1, 0.1)
    common, alone = [(20, 30), (60, 70), (80, 25), (40, 50)], (70, 50)
    shifted = [(y, x - 3) for y, x in common]
    scan = stm(scene((100, 100), pixel, [*common, alone], [(50, 1)]), pixel, direction="forward", path=Path("a.sxm"))
    other = stm(scene((100, 100), pixel, shifted, [], seed=1), pixel, direction="backward")
    asked = []
    monkeypatch.setattr(module, "other_direction", lambda one: asked.append(one) or other)
    result = look(scan, confirm=1.0)
    assert asked == [scan]
    found = result.defects
    index = matched(found, [*common, alone, (50, 1)], 1.0)
    np.testing.assert_array_equal(found.confirmed[index], [1, 1, 1, 1, 0, -1])
    assert found.confirmed.dtype == np.int8
    assert "directions" in result.timings_s
    assert (look(scan).defects.confirmed == -1).all()
    assert len(asked) == 1
    monkeypatch.setattr(module, "other_direction", lambda one: None)
    assert (look(scan, confirm=1.0).defects.confirmed == -1).all()


def test_a_second_direction_that_is_damaged_costs_no_result(monkeypatch):
    def damaged(scan):
        raise ScanError("a.sxm", seen="a file cut off in the backward image", expected="both", remedy="Copy it again.")

    monkeypatch.setattr(module, "other_direction", damaged)
    pixel = (0.1, 0.1)
    result = look(stm(scene((100, 100), pixel, [(40, 50)], []), pixel), confirm=1.0)
    assert len(result.defects) == 1
    assert result.defects.confirmed[0] == -1
    assert "cut off in the backward image" in " ".join(result.warnings)


# Parameters


def test_a_higher_bound_finds_fewer():
    scan = stm(scene((80, 80), (0.1, 0.1), [(30, 30)], [(60, 50)]), (0.1, 0.1))
    assert len(look(scan, lower_bound=0.95).defects) == 0
    assert look(scan, lower_bound=0.85).parameters["lower_bound"] == 0.85
    assert len(look(scan, lower_bound=0.85).defects) == 2


def test_a_step_that_the_finder_does_not_see_is_found_by_the_terraces():
    pixel = (0.1, 0.1)
    scan = stm(scene((120, 120), pixel, [(30, 30)], [], step_column=70), pixel)
    result = look(scan, Oracle(sees=()))
    steps = next(one.data for one in result.maps if one.name == "steps")
    assert steps.any(axis=1).mean() > 0.8
    assert abs(np.argwhere(steps)[:, 1].mean() - 69.5) < 3


def test_short_edges_are_no_steps():
    surface = module.on_working_pixels(np.zeros((60, 60), np.float32), (0.3, 0.3), 1.0)
    step = np.zeros((60, 60), bool)
    step[5, 5:12] = 1  # seven pixels
    step[20, 5:15] = 1
    step[np.arange(30, 42), np.arange(30, 42)] = 1  # a diagonal is connected
    kept = module._long_enough(step, surface)
    assert kept.dtype == bool
    assert not kept[5].any()
    assert kept[20].sum() == 10
    assert kept[30:42].sum() == 12
    fine = module.on_working_pixels(np.zeros((60, 60), np.float32), (0.1, 0.1), 1.0)
    assert not module._long_enough(step, fine)[20].any()  # 1.0 nm
