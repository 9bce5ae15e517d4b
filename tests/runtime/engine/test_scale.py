"""Finding the scale: the spectrum's readings, judged by what a finder sees at each of them."""

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from spm_runtime.pipelines import scale
from spm_runtime.pipelines.scale import (
    COMFORTABLE_SPACING_PX,
    LOOK_COMFORTABLE_SPACING_PX,
    NOMINAL_SPACING_PX,
    SCALE_NETWORK,
    find_scale,
)
from spm_runtime.pipelines.spectrum import ANGLES, BINS, CHANNELS, bin_of_period
from spm_runtime.scan import Scan


def net(shape, spacing, *, honeycomb=False, angle=0.2, second=1.0):
    """Gaussian columns on a triangular net or a honeycomb whose nearest neighbours are `spacing` apart.

    `second` is the height of every other column of the honeycomb.
    """
    side = spacing * (np.sqrt(3.0) if honeycomb else 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cell = side * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]]) @ turn
    reach = int(2 * max(shape) / side) + 2
    ij = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1.0)] * 2), -1).reshape(-1, 1, 2)
    basis = np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]]) if honeycomb else np.zeros((1, 2))
    yx = ((ij + basis).reshape(-1, 2)) @ cell + np.array(shape) / 2
    height = np.tile([1.0, second][: len(basis)], ij[..., 0].size)
    near = np.all((yx > -spacing) & (yx < np.array(shape) + spacing), axis=1)
    yx, height = yx[near], height[near]
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[:, None]
    sigma = 0.22 * spacing
    rows, columns = (np.exp(-0.5 * ((axis - yx[:, k]) / sigma) ** 2) for k, axis in enumerate((y, x)))
    return ((rows * height) @ columns.T).astype(np.float32)


class Finder:
    """A finder of columns about 7 px apart: the smoothed image, clipped; it says nothing true of the spacing."""

    def __init__(self, attached=None, spacing_px=None) -> None:
        self.package = SimpleNamespace(
            attached=MappingProxyType(attached or {}), size_multiple=8, halo_px=8, inputs=(SimpleNamespace(id="image"),)
        )
        self.spacing_px = spacing_px
        self.seen = []

    def run(self, tensors):
        image = tensors["image"]
        self.seen.append(image.shape[2:])
        smooth = ndimage.gaussian_filter(image[0, 0].astype(np.float64), 1.0)
        top = max(float(np.quantile(smooth, 0.98)), 1e-6)
        confidence = np.sqrt(np.clip(smooth / top, 0, 1)).astype(np.float32)  # faint columns are seen too
        outputs = {"confidence": confidence[None, None]}
        if self.spacing_px is not None:
            outputs["spacing_px"] = np.full((1, 1), self.spacing_px(image.shape[2:], len(self.seen)), np.float32)
        return outputs


class ScaleReader:
    """A scale network that gives readings as told: shares by spacing in square pixels."""

    def __init__(self, shares) -> None:
        self.package = SimpleNamespace(inputs=(SimpleNamespace(id="spectrum"),))
        self.shares = shares
        self.seen = []

    def run(self, tensors):
        self.seen.append(tensors["spectrum"])
        bins = np.arange(BINS)
        likelihood = np.full(BINS, 1e-9)
        for spacing, share in self.shares.items():
            likelihood += share * np.exp(-0.5 * ((bins - bin_of_period(spacing)) / 0.6) ** 2)
        return {"logits": np.log(likelihood)[None].astype(np.float32)}


@pytest.fixture
def with_readings(monkeypatch):
    """A finder whose package carries a scale network of given readings."""

    def make(shares):
        reader, package = ScaleReader(shares), object()

        def session_of(asked, device):
            assert asked is package
            assert device == "cpu"
            return reader

        monkeypatch.setattr(scale, "shared_session", session_of)
        finder = Finder({SCALE_NETWORK: package})
        finder.reader = reader
        return finder

    return make


@pytest.mark.parametrize("spacing", [3.2, 7.0, 20.0])
def test_a_sure_reading_is_taken_and_brings_the_image_to_the_nominal_spacing(with_readings, spacing):
    image = net((200, 240), spacing)
    finder = with_readings({spacing: 1.0})
    scaled = find_scale(Scan(image), finder)
    assert scaled.certain
    assert scaled.spacing_px == pytest.approx(spacing * scaled.zoom, rel=0.02)
    low, high = COMFORTABLE_SPACING_PX
    assert low <= scaled.spacing_px <= high
    if not low <= spacing <= high:
        assert scaled.spacing_px == pytest.approx(NOMINAL_SPACING_PX, rel=0.03)
    assert scaled.levelled.shape == scaled.residual.shape == scaled.valid.shape
    assert scaled.factor == tuple(np.array(scaled.levelled.shape) / image.shape)
    (spectrum,) = finder.reader.seen
    assert spectrum.shape == (1, CHANNELS, BINS, ANGLES)


def test_a_comfortable_image_is_left_as_it_is(with_readings):
    image = net((150, 160), 7.5)
    scaled = find_scale(Scan(image), with_readings({7.5: 1.0}))
    assert scaled.factor == (1.0, 1.0)
    assert scaled.levelled.shape == image.shape


@pytest.mark.parametrize("wrong", [0.5, 2.0, 3.0])
def test_of_two_readings_the_one_is_taken_at_which_the_finder_sees_what_it_knows(with_readings, wrong):
    """Even where the network thinks the wrong one a little likelier."""
    spacing = 12.0
    scaled = find_scale(Scan(net((240, 240), spacing)), with_readings({spacing: 0.45, wrong * spacing: 0.55}))
    assert scaled.spacing_px / scaled.zoom == pytest.approx(spacing, rel=0.03)


def test_a_reading_that_the_network_hardly_believes_is_not_looked_at(with_readings):
    finder = with_readings({12.0: 0.97, 24.0: 0.03})
    find_scale(Scan(net((240, 240), 12.0)), finder)
    assert len(finder.seen) == 3  # the reading, and the two finer spacings


def test_a_honeycomb_is_not_taken_for_its_triangular_net(with_readings):
    """The first ring of its spots is that of a net √3 times as wide; the finder fills the finer one."""
    spacing = 9.0
    scaled = find_scale(Scan(net((240, 240), spacing, honeycomb=True)), with_readings({np.sqrt(3) * spacing: 1.0}))
    assert scaled.spacing_px / scaled.zoom == pytest.approx(spacing, rel=0.03)


@pytest.mark.parametrize(("second", "ratio"), [(0.7, 1.0), (0.35, np.sqrt(3.0))])
def test_light_columns_beside_heavy_ones_do_not_set_the_scale(with_readings, second, ratio):
    """A honeycomb with boron on every other place is one; with sulphur beside a metal the metal alone counts."""
    spacing = 9.0
    image = net((240, 240), spacing, honeycomb=True, second=second)
    scaled = find_scale(Scan(image), with_readings({np.sqrt(3) * spacing: 1.0}))
    assert scaled.spacing_px / scaled.zoom == pytest.approx(ratio * spacing, rel=0.03)


def test_a_finer_spacing_is_taken_only_where_atoms_fill_it_evenly(with_readings, monkeypatch):
    """Equal in weight, it wins by its bonus when filled, and is out of the question when not."""
    spacing = 9.0

    def looks(filled, even):
        def look(square, session, spacing_px):
            finer = spacing_px < 0.9 * spacing
            return scale._Looked(0.8 if finer else 0.75, filled if finer else 1.0, even if finer else 1.0)

        return look

    image = net((120, 120), spacing)
    for filled, even, expected in ((0.9, 0.9, spacing / np.sqrt(3)), (0.3, 0.9, spacing), (0.9, 0.3, spacing)):
        monkeypatch.setattr(scale, "_look_at", looks(filled, even))
        scaled = find_scale(Scan(image), with_readings({spacing: 1.0}))
        assert scaled.spacing_px / scaled.zoom == pytest.approx(expected, rel=0.03)


def test_single_atoms_far_apart_are_no_coarse_lattice(with_readings):
    """Four atoms of the width of a spacing of 9 px, 60 px apart: the distance between them says nothing."""
    y, x = np.mgrid[:240, :240]
    places = [(90, 92), (90, 152), (150, 92), (150, 152)]
    image = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 1.9**2)) for a, b in places)
    scaled = find_scale(Scan(np.float32(image)), with_readings({9.0: 0.55, 60.0: 0.45}))
    assert scaled.spacing_px / scaled.zoom == pytest.approx(9.0, rel=0.03)


def test_an_image_in_which_the_finder_sees_nothing_keeps_the_likeliest_reading(with_readings, rng):
    image = np.zeros((100, 100), np.float32)
    scaled = find_scale(Scan(image), with_readings({10.0: 0.6, 30.0: 0.4}))
    assert scaled.spacing_px / scaled.zoom == pytest.approx(10.0, rel=0.03)
    assert not scaled.certain
    assert not scaled.levelled.any()


def test_readings_are_peaks_with_their_share_the_likeliest_first():
    bins = np.arange(BINS)
    share = sum(
        part * np.exp(-0.5 * ((bins - bin_of_period(period)) / 0.6) ** 2)
        for period, part in ((6.0, 0.3), (18.0, 0.6), (3.0, 0.1), (50.0, 0.04))
    )
    readings = scale._readings(share)
    assert [period for period, _ in readings] == pytest.approx([18.0, 6.0, 3.0], rel=0.01)
    assert [part for _, part in readings] == pytest.approx([0.6 / 1.04, 0.3 / 1.04, 0.1 / 1.04], rel=0.02)
    assert len(scale._readings(np.ones(BINS))) == 1  # a flat answer has no peaks: only one is looked at


@pytest.mark.parametrize("given", [3.0, 7.0, 31.0])
def test_a_given_spacing_is_honoured_without_a_look(with_readings, given):
    finder = with_readings({12.0: 1.0})
    scaled = find_scale(Scan(net((160, 160), 12.0)), finder, given_px=given)
    assert not finder.seen
    assert not finder.reader.seen
    assert scaled.certain
    assert scaled.spacing_px == pytest.approx(given * scaled.zoom)
    assert COMFORTABLE_SPACING_PX[0] <= scaled.spacing_px <= COMFORTABLE_SPACING_PX[1]


def test_pixels_that_are_not_square_are_made_so(with_readings):
    """Half as many lines: the spectrum is that of square pixels, and spacings count in the finer ones."""
    spacing = 12.0
    image = net((240, 240), spacing)
    finder = with_readings({spacing: 1.0})
    scaled = find_scale(Scan(image[::2], pixel_size_nm=(0.06, 0.03)), finder)
    assert scaled.factor[0] == pytest.approx(2 * scaled.factor[1], rel=0.02)
    assert scaled.spacing_px == pytest.approx(NOMINAL_SPACING_PX, rel=0.03)
    assert scaled.levelled.shape[0] == pytest.approx(scaled.levelled.shape[1], abs=1)
    given = find_scale(Scan(image[::2], pixel_size_nm=(0.06, 0.03)), finder, given_px=spacing / np.sqrt(2))
    assert given.levelled.shape == scaled.levelled.shape
    assert given.spacing_px == pytest.approx(NOMINAL_SPACING_PX, rel=0.03)


def test_missing_pixels_stay_missing(with_readings):
    image = net((160, 160), 14.0)
    image[100:] = np.nan
    scaled = find_scale(Scan(image), with_readings({14.0: 1.0}))
    edge = round(100 * scaled.factor[0])
    assert scaled.valid[: edge - 2].all()
    assert not scaled.valid[edge + 2 :].any()
    assert np.isnan(scaled.residual[~scaled.valid]).all()
    assert np.isfinite(scaled.levelled).all()
    assert (scaled.levelled[edge + 2 :] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 60), (64, 20)])
def test_small_images_have_some_scale_too(with_readings, rng, shape):
    scaled = find_scale(Scan(rng.normal(size=shape).astype(np.float32)), with_readings({9.0: 0.5, 3.0: 0.5}))
    assert np.isfinite(scaled.spacing_px)
    assert scaled.spacing_px > 0


def test_a_package_without_a_scale_network_looks_until_it_is_comfortable(monkeypatch):
    """The spacing branch sees the image at the scale of each look."""
    spacing, side = 30.0, 240
    monkeypatch.setattr(scale, "shared_session", lambda *_: pytest.fail("there is no scale network"))
    finder = Finder(spacing_px=lambda shape, _: spacing * shape[0] / side)
    scaled = find_scale(Scan(net((side, side), spacing)), finder)
    assert len(finder.seen) == 2
    assert finder.seen[0] == (240, 240)
    assert scaled.certain
    low, high = LOOK_COMFORTABLE_SPACING_PX
    assert low <= scaled.spacing_px <= high
    assert scaled.spacing_px / scaled.zoom == pytest.approx(spacing, rel=0.1)
    assert scaled.confidence is not None
    assert scaled.confidence.shape == scaled.levelled.shape


def test_looking_is_given_up_in_the_end_and_said_to_be_uncertain():
    finder = Finder(spacing_px=lambda shape, number: 40.0 if number % 2 else 2.0)
    scaled = find_scale(Scan(net((128, 128), 9.0)), finder)
    assert len(finder.seen) == scale.MAX_LOOKS
    assert not scaled.certain


def test_a_look_covers_the_middle_of_a_large_image():
    finder = Finder(spacing_px=lambda shape, number: 9.0)
    scaled = find_scale(Scan(net((600, 640), 9.0)), finder)
    assert finder.seen == [(scale.LOOK_PX, scale.LOOK_PX)]
    assert scaled.confidence is None
    assert scaled.factor == (1.0, 1.0)
