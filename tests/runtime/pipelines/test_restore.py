"""The restore pipeline with networks that know the answer: what is lost or moved is the pipeline's own."""

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spm_kernels import dilate
from spm_runtime.errors import ParameterError
from spm_runtime.pipelines import restore as module
from spm_runtime.pipelines.relief import PAIR_HEIGHTS, RESTORE_CHANNELS, TIP_PX, relief_view, restore_channels
from spm_runtime.pipelines.restore import restore_surface
from spm_runtime.pipelines.tip_candidates import FACTORS, FACTS
from spm_runtime.pipelines.tip_classical import CLASSICAL, restore_classical
from spm_runtime.pipelines.tip_drawn import CODE_WIDTH
from spm_runtime.results import ModelReference
from spm_runtime.scan import Scan

HALF = TIP_PX // 2
FAMILIES = ("blunt", "double", "hackathon", "convolution")
#: What the tip is told to be: round, and as high as the local height at eight pixels.
VISIBLE = np.exp(-np.add.outer(*[(np.arange(TIP_PX) - HALF) ** 2 / 64.0] * 2)).astype(np.float32)


class Network:
    """Draws the surface by a rule.

    Parameters
    ----------
    rule
        From the channels ``(C, H, W)`` and the code to the surface ``(H, W)``.
    touched
        What it says of the touch; None where it does not.
    """

    provider = "CPUExecutionProvider"

    def __init__(self, rule=lambda seen, code: seen[0], *, channels=("image",), touched=None, has_tip=True) -> None:
        self.rule, self.touched, self.warnings = rule, touched, ("a card is there",)
        facts = {"channels": list(channels), "families": list(FAMILIES)}
        attached = {name: name for name in ("marks", "tip", "judge")}
        self.package = SimpleNamespace(
            name="restore", task="restore", reference=ModelReference("restore", "1", "0" * 64), modalities=("afm",),
            pixel_size_nm=(0.1, 50.0), size_multiple=16, halo_px=16, inputs=(SimpleNamespace(id="image"),),
            settings=MappingProxyType(facts), attached=MappingProxyType(attached if has_tip else {}),
        )  # fmt: skip
        self.seen, self.codes = [], []

    def run(self, inputs):
        image, code = inputs["image"], inputs.get("code")
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert all(size % 16 == 0 for size in image.shape[2:])
        self.seen.append(image[0])
        self.codes.append(code)
        found = {"restored": self.rule(image[0], code).astype(np.float32)[None, None]}
        if self.touched is not None:
            found["touched"] = np.full((1, 1, *image.shape[2:]), self.touched, np.float32)
        return found


class TipNetwork:
    """Says the same of every tip."""

    def __init__(self, visible=VISIBLE) -> None:
        self.visible, self.second, self.seen = visible, np.zeros_like(visible), []

    def run(self, inputs):
        if "image" in inputs:  # what marks points: everything is one
            assert all(size % 8 == 0 for size in inputs["image"].shape[2:])
            flat = np.ones((1, 1, *(size // 2 for size in inputs["image"].shape[2:])), np.float32)
            return {"points": flat, "values": flat, "features": flat}
        if "facts" in inputs:  # what judges: the tip is right as it is
            assert inputs["facts"].shape == (1, FACTS + CODE_WIDTH)
            return {"errors": (np.log(FACTORS) ** 2)[None].astype(np.float32)}
        assert list(inputs) == ["evidence"]
        self.seen.append(inputs["evidence"])
        assert inputs["evidence"].dtype == np.float32
        assert inputs["evidence"].shape[2:] == (TIP_PX, TIP_PX)
        return {
            "visible": self.visible[None, None],
            "second": self.second[None, None],
            "families": np.array([[0.1, 0.7, 0.15, 0.05]], np.float32),
        }


@pytest.fixture
def tip_network(monkeypatch):
    network = TipNetwork()
    monkeypatch.setattr(module, "shared_session", lambda package, device: network)
    return network


def bumps(shape=(70, 90), seed=0):
    heights = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5)
    return (heights / np.abs(heights).max() * 8e-9).astype(np.float32)


def scan_of(heights, **facts):
    facts = {"unit": "m", "pixel_size_nm": (2.0, 2.0), "modality": "afm", "channel": "Height", **facts}
    return Scan(heights, **facts)


def run(scan, network, **parameters):
    return restore_surface(scan, network.package, network, parameters)


def maps_of(result):
    return {layer.name: layer.data for layer in result.maps}


def test_a_network_that_changes_nothing_gives_back_the_scan(tip_network):
    scan = scan_of(bumps() + np.float32(3e-6))
    result = run(scan, Network(touched=0.75))
    found = maps_of(result)
    assert list(found) == ["restored", "certainty"]
    assert [layer.unit for layer in (*result.maps, result.tip)] == ["m", "", "m"]
    assert {values.dtype for values in (*found.values(), result.tip.data)} == {np.dtype(np.float32)}
    # Half a step of float32 at the offset of the scan, and nothing more.
    assert np.abs(found["restored"] - scan.image).max() <= np.spacing(np.float32(3e-6))
    assert np.all(found["certainty"] == np.float32(0.75))
    assert result.quantities["rms_change_nm"] < 1e-3
    assert result.quantities["certain_share"] == 1.0
    assert (result.task, result.model.name, result.instead_of, result.provider) == (
        "restore", "restore", None, "CPUExecutionProvider",
    )  # fmt: skip
    assert list(result.timings_s) == ["levelling", "tip", "network", "certainty"]
    assert result.warnings == ("a card is there",)


def test_the_networks_see_what_training_showed_them(tip_network):
    scan = scan_of(bumps((64, 80)))
    network = Network(channels=("certain", "image", "eroded"))
    result = run(scan, network)
    view = relief_view(scan.image)
    tip = (result.tip.data / np.float32(view.scale)).astype(np.float32)
    known = dict(zip(RESTORE_CHANNELS, restore_channels(view, tip), strict=True))
    for seen, name in zip(network.seen[0], ("certain", "image", "eroded"), strict=True):
        if name == "certain":  # a deep part of the tip that is cut off may change a few touches
            assert np.mean(seen != known[name]) < 0.01
        else:
            np.testing.assert_allclose(seen, known[name], atol=1e-6, err_msg=name)
    assert len(tip_network.seen) == 1


def test_the_code_of_the_tip_reaches_every_tile(tip_network, monkeypatch):
    monkeypatch.setattr("spm_runtime.pipelines.tiling.TILE_PX", 32)
    monkeypatch.setitem(module.run_tiled.__kwdefaults__, "tile_px", 32)
    network = Network(rule=lambda seen, code: seen[0] + code[0, 0])
    scan = scan_of(bumps((70, 90)))
    result = run(scan, network)
    assert len(network.codes) == 9
    assert all(code.shape == (1, CODE_WIDTH + len(FACTORS)) for code in network.codes)
    assert all(np.array_equal(code, network.codes[0]) for code in network.codes)
    np.testing.assert_allclose(network.codes[0][0, : len(FAMILIES)], [0.1, 0.7, 0.15, 0.05])
    rise = maps_of(result)["restored"] - scan.image
    np.testing.assert_allclose(rise, 0.1 * relief_view(scan.image).scale, rtol=1e-3)


def test_a_second_apex_is_drawn_told_and_used(tip_network):
    scan = scan_of(bumps((96, 96)))
    network = Network(rule=lambda seen, code: seen[0], channels=("eroded",))
    alone = run(scan, network)
    tip_network.second[HALF - 5, HALF + 12] = 0.9
    both = run(scan, network)
    view = relief_view(scan.image)
    lower = -both.tip.data[HALF - 5, HALF + 12] / (view.local * view.scale)
    assert np.abs(lower - np.array(PAIR_HEIGHTS)).min() < 1e-4
    assert both.tip.data[HALF - 5, HALF + 12] > alone.tip.data[HALF - 5, HALF + 12]
    assert (maps_of(both)["restored"] <= maps_of(alone)["restored"] + 1e-15).all()
    assert (maps_of(both)["restored"] < maps_of(alone)["restored"] - 1e-11).any()
    pictures = [code[0, -64 - len(FACTORS) : -len(FACTORS)].reshape(8, 8) for code in network.codes]
    brighter = pictures[-1] - pictures[0]
    assert np.unravel_index(int(np.argmax(brighter)), brighter.shape) == ((HALF - 5) // 8, (HALF + 12) // 8)


def test_the_tip_is_finite_has_the_scale_of_the_scan_and_says_its_kind(tip_network, tmp_path):
    scan = scan_of(bumps(), pixel_size_nm=(2.0, 4.0))
    result = run(scan, Network())
    tip = result.tip.data
    assert tip.shape == (TIP_PX, TIP_PX)
    assert tip[HALF, HALF] == tip.max() == 0
    assert tip.min() == pytest.approx(-2 * np.ptp(scan.image), rel=1e-6)
    view = relief_view(scan.image)
    assert tip[HALF, HALF + 8] == pytest.approx(-view.local * view.scale, rel=1e-5)
    chances = {name: value for name, value in result.quantities.items() if name.startswith("family_")}
    assert chances == pytest.approx(
        {f"family_{name}": chance for name, chance in zip(FAMILIES, (0.1, 0.7, 0.15, 0.05), strict=True)}
    )
    assert result.quantities["tip_radius_nm"] == pytest.approx(result.quantities["tip_radius_px"] * np.sqrt(8))
    result.save(tmp_path, gwy=True)
    with tifffile.TiffFile(tmp_path / "tip.tif") as file:
        np.testing.assert_array_equal(file.asarray(), tip)
        assert file.imagej_metadata["unit"] == "nm"
        assert file.pages[0].tags["XResolution"].value[1] / file.pages[0].tags["XResolution"].value[0] == pytest.approx(
            4
        )


def test_the_radius_of_the_tip_is_that_of_its_cross_section_at_half_the_height_of_the_surface(tip_network):
    scan = scan_of(bumps((160, 160)))
    view = relief_view(scan.image)
    result = run(scan, Network())
    low, high = np.percentile(view.image, (1, 99))
    # The told tip is a paraboloid: local height at eight pixels.
    expected = 8 * np.sqrt((high - low) / 2 / view.local)
    assert result.quantities["tip_radius_px"] == pytest.approx(expected, rel=0.1)
    assert not any("wide" in warning for warning in result.warnings)


def test_a_tip_that_fills_its_window_is_said_to(tip_network):
    tip_network.visible = np.ones((TIP_PX, TIP_PX), np.float32)
    result = run(scan_of(bumps()), Network())
    assert any("61 × 61" in warning and "lower bound" in warning for warning in result.warnings)
    assert result.quantities["tip_radius_px"] == pytest.approx(TIP_PX / np.sqrt(np.pi))


def test_certainty_is_that_of_the_tip_where_the_network_does_not_tell(tip_network):
    x = np.broadcast_to(np.arange(120), (120, 120))
    surface = np.where((x // 30) % 2 == 0, 0.0, 6e-9).astype(np.float32)  # trenches that no round tip reaches into
    scan = scan_of(surface + bumps((120, 120)) / 40)
    certainty = maps_of(run(scan, Network()))["certainty"]
    assert set(np.unique(certainty)) == {0.0, 1.0}
    inner = np.zeros((120, 120), bool)
    inner[HALF:-HALF, HALF:-HALF] = True
    assert certainty[inner & (x % 60 >= 35) & (x % 60 < 55)].mean() > 0.7  # plateaus
    assert certainty[inner & (x % 60 == 29)].mean() < 0.1  # feet of the walls
    assert certainty[~inner].mean() < 0.1  # nothing is known of touches beyond the frame


def test_without_a_network_for_the_tip_it_is_the_blind_estimate(monkeypatch):
    monkeypatch.setattr(module, "shared_session", None)
    surface = np.zeros((80, 80), np.float32)
    surface[10::23, 9::21] = 5e-9
    away = np.arange(15) - 7
    tip = (-1e-10 * np.add.outer(away**2, away**2)).astype(np.float32)
    scan = scan_of(dilate(surface, tip))
    network = Network(has_tip=False)
    result = run(scan, network)
    assert network.codes == [None]
    assert result.tip.data.shape == (15, 15)
    known = tip > -4e-9
    np.testing.assert_allclose(result.tip.data[known], tip[known], atol=2e-11)
    classical = restore_classical(scan.image)
    assert np.mean(maps_of(result)["certainty"] == classical.certain) > 0.99
    assert not any(name.startswith("family") for name in result.quantities)


def test_missing_pixels_stay_missing(tip_network):
    heights = bumps((90, 70))
    heights[60:] = np.nan
    heights[5, 6] = np.nan
    for network in (Network(), Network(touched=0.9), Network(channels=RESTORE_CHANNELS)):
        result = run(scan_of(heights), network)
        for values in maps_of(result).values():
            np.testing.assert_array_equal(np.isnan(values), np.isnan(heights))
        assert np.isfinite(result.tip.data).all()
        assert np.isfinite(list(result.quantities.values())).all()


@pytest.mark.parametrize("fill", [np.nan, 0.0, 3e-9])
@pytest.mark.parametrize("shape", [(40, 50), (5, 7), (1, 1)])
def test_a_scan_of_nothing_is_no_accident(tip_network, fill, shape, tmp_path):
    networks = [Network(channels=RESTORE_CHANNELS, has_tip=False), Network(has_tip=False)]
    if min(shape) > HALF:
        networks.append(Network(channels=RESTORE_CHANNELS))
    for network in networks:
        result = run(scan_of(np.full(shape, fill, np.float32)), network)
        np.testing.assert_allclose(maps_of(result)["restored"], np.full(shape, fill), rtol=1e-6)
        result.save(tmp_path / network.package.name)
    CLASSICAL.run(scan_of(np.full(shape, fill, np.float32)), CLASSICAL.resolve(None)).save(tmp_path / "classical")


def sharpened(seen, code):
    """A rule that is neither linear nor symmetric, and knows the tip."""
    return 0.2 * np.tanh(3 * seen[0]) + 0.7 * seen[1] + 0.1 * np.roll(seen[0], 1, axis=1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    factor=st.floats(0.01, 100),
    offset=st.floats(-100, 100),
    slope=st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
    seed=st.integers(0, 3),
)
def test_a_scan_of_other_heights_gives_the_same_surface_in_those_heights(tip_network, factor, offset, slope, seed):
    heights = bumps((48, 60), seed).astype(np.float64) * 1e9
    y, x = np.mgrid[:48, :60]
    other = factor * (heights + offset + slope[0] * y + slope[1] * x)
    networks = [Network(sharpened, channels=RESTORE_CHANNELS) for _ in range(2)]
    first, second = (
        maps_of(run(scan_of(image.astype(np.float32), unit="nm"), network))
        for image, network in zip((heights, other), networks, strict=True)
    )
    change = first["restored"] - heights
    expected = other + factor * change
    # float32 at this offset, and the median slope, which a plane moves by a rounding error
    tolerance = factor * 1e-3 * max(np.ptp(heights), 1e-2 * abs(offset))
    np.testing.assert_allclose(second["restored"], expected, atol=tolerance)


@pytest.mark.parametrize("axis", [0, 1])
def test_nothing_moves_sideways(tip_network, axis):
    """A mirrored scan gives the mirrored surface and certainty, when network and tip have no side."""
    half = bumps((64, 64))
    scene = half + np.flip(half, axis)
    network = Network(lambda seen, code: 0.5 * seen[0] + 0.5 * seen[1], channels=RESTORE_CHANNELS)
    for image in (scene, half):
        there = maps_of(run(scan_of(image), network))
        back = maps_of(run(scan_of(np.flip(image, axis).copy()), network))
        np.testing.assert_allclose(np.flip(back["restored"], axis), there["restored"], atol=1e-13)
        assert np.mean(np.flip(back["certainty"], axis) != there["certainty"]) < 2e-3
    restored = maps_of(run(scan_of(scene), network))["restored"]
    np.testing.assert_allclose(restored, np.flip(restored, axis), atol=1e-13)


@pytest.mark.parametrize("pixel_size_nm", [(0.05, 0.05), (2.0, 80.0)])
def test_pixels_that_no_network_was_made_for_are_restored_without_one(tip_network, pixel_size_nm):
    scan = scan_of(bumps(), pixel_size_nm=pixel_size_nm)
    network = Network()
    result = run(scan, network, strength=0.5)
    assert network.seen == tip_network.seen == []
    expected = CLASSICAL.run(scan, CLASSICAL.resolve(None))
    for name, values in maps_of(expected).items():
        np.testing.assert_array_equal(maps_of(result)[name], values)
    assert (result.model, result.provider) == (CLASSICAL.reference, "Numba")
    assert result.instead_of == network.package.reference
    assert "0.1 to 50 nm" in result.warnings[0]
    assert "classical" in result.warnings[0]
    assert result.parameters == {"strength": 0.5, "tip_px": 15, "threshold_nm": 0, "full": 1}


def test_a_package_may_say_how_scans_outside_its_range_are_restored(tip_network):
    scan = scan_of(bumps(), pixel_size_nm=(80.0, 80.0))
    result = run(scan, Network(), tip_px=9.0)
    assert result.tip.data.shape == (9, 9)
    assert result.parameters["tip_px"] == 9


def test_scans_unlike_the_training_are_said_to_be(tip_network):
    result = run(scan_of(bumps(), modality="stm"), Network())
    assert any("not trained on STM" in warning for warning in result.warnings)
    assert not any("not trained" in warning for warning in run(scan_of(bumps()), Network()).warnings)
    uncalibrated = run(scan_of(bumps(), pixel_size_nm=None, unit="", modality="unknown"), Network())
    assert any("no unit" in warning for warning in uncalibrated.warnings)
    assert {"rms_change", "tip_radius_px"} <= uncalibrated.quantities.keys()
    assert not {"rms_change_nm", "tip_radius_nm"} & uncalibrated.quantities.keys()


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"unit": "deg", "channel": "Phase"}, "Phase"),
        ({"unit": "A", "channel": "Current", "modality": "stm"}, "Current"),
        ({"unit": "V"}, "in V"),
        ({"unit": "m", "channel": "Amplitude"}, "Amplitude"),
        ({"unit": "m", "channel": "DeflectionRetrace"}, "DeflectionRetrace"),
        ({"unit": "nm", "channel": "Peak Force Error"}, "Peak Force Error"),
        ({"unit": "", "channel": "HAADF", "modality": "stem"}, "STEM"),
    ],
)
def test_what_is_no_height_is_refused_by_name_with_a_remedy(tip_network, facts, word):
    scan = scan_of(bumps(), **facts)
    for restore in (lambda: run(scan, Network()), lambda: CLASSICAL.run(scan, CLASSICAL.resolve(None))):
        with pytest.raises(ParameterError, match=f"{word}.*--channel"):
            restore()


@pytest.mark.parametrize("channel", ["Height", "ZSensor", "Topography", "Z-Axis", "Height (measured)", "Z", ""])
def test_topographies_are_taken(tip_network, channel):
    assert maps_of(run(scan_of(bumps(), channel=channel), Network()))["restored"].shape == (70, 90)


def test_the_classical_method_is_the_classical_restoration(rng):
    heights = bumps() + rng.normal(0, 1e-11, (70, 90)).astype(np.float32)
    scan = scan_of(heights)
    for given_, options in (
        ({}, {}),
        ({"tip_px": 9, "full": 0}, {"tip_px": 9, "full": False}),
        ({"threshold_nm": 0.5}, {"threshold": 0.5e-9}),
    ):
        result = CLASSICAL.run(scan, CLASSICAL.resolve(given_))
        expected = restore_classical(heights, **options)
        np.testing.assert_array_equal(maps_of(result)["restored"], expected.restored)
        np.testing.assert_array_equal(maps_of(result)["certainty"], expected.certain.astype(np.float32))
        np.testing.assert_array_equal(result.tip.data, expected.tip)
    unitless = CLASSICAL.run(replace(scan, unit=""), CLASSICAL.resolve({"threshold_nm": 0.5e-9}))
    np.testing.assert_array_equal(maps_of(unitless)["restored"], expected.restored)


def test_the_classical_method_knows_when_it_does_not_compute(monkeypatch):
    from spm_runtime.errors import ModelIntegrityError
    from spm_runtime.pipelines import tip_classical

    assert CLASSICAL.self_test() <= 1e-6
    monkeypatch.setattr(tip_classical, "estimate_tip", lambda image, start, **options: start)
    with pytest.raises(ModelIntegrityError, match="known tip"):
        CLASSICAL.self_test()
