"""Scans in units of their relief, and what they say of the tip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spm_kernels import dilate
from spm_runtime.pipelines.relief import (
    EVIDENCE,
    RESTORE_CHANNELS,
    TIP_PX,
    relief_view,
    restore_channels,
    tip_evidence,
    tip_heights,
    visible_tip,
)

HALF = TIP_PX // 2


def spikes(side: int = 128, *, seed: int = 0) -> NDArray[np.float32]:
    """A flat surface with a few sharp points of equal height."""
    surface = np.zeros((side, side), np.float32)
    for y, x in np.random.default_rng(seed).integers(20, side - 20, (12, 2)):
        surface[y, x] = 1.0
    return surface


def paraboloid(reach: float) -> NDArray[np.float32]:
    y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    return (-(y**2 + x**2) / reach**2).astype(np.float32)


def terraces(side: int = 96) -> NDArray[np.float64]:
    """Wide terraces that go up to the right, with dirt."""
    stairs = np.floor(np.arange(side) / 24.0)[None, :] * np.ones((side, 1))
    return stairs + 0.01 * np.random.default_rng(1).standard_normal((side, side))


class TestView:
    @given(
        scale=st.floats(1e-3, 1e4),
        offset=st.floats(-1e3, 1e3),
        slope=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    )
    @settings(max_examples=25, deadline=None)
    def test_unit_offset_and_tilt_do_not_matter(self, scale: float, offset: float, slope: tuple[float, float]) -> None:
        heights = terraces()
        tilt = np.add.outer(slope[0] * np.arange(96), slope[1] * np.arange(96))
        view = relief_view(heights)
        other = relief_view(scale * (heights + tilt) + scale * offset)
        np.testing.assert_allclose(other.image, view.image, atol=2e-5)
        assert other.scale == pytest.approx(scale * view.scale, rel=1e-5)

    def test_terraces_stay_level(self) -> None:
        view = relief_view(terraces())
        flat = view.image[:, 4:20]
        assert abs(float(np.polyfit(np.arange(16), flat.mean(axis=0), 1)[0])) < 1e-3

    def test_heights_come_back(self) -> None:
        heights = (1e-9 * terraces() + 3e-6).astype(np.float32)
        heights[10:20, 30:50] = np.nan
        view = relief_view(heights)
        back = view.heights(view.image)
        assert np.array_equal(np.isnan(back), np.isnan(heights))
        np.testing.assert_allclose(back[view.valid], heights[view.valid], rtol=1e-6)
        np.testing.assert_allclose(view.normalised(heights)[view.valid], view.image[view.valid], atol=1e-3)

    def test_missing_pixels_hold_a_neighbour(self) -> None:
        heights = terraces()
        heights[:, 40:] = np.nan
        view = relief_view(heights)
        assert np.isfinite(view.image).all()
        np.testing.assert_array_equal(view.image[:, 60], view.image[:, 39])

    @pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
    @pytest.mark.parametrize("shape", [(32, 40), (5, 7), (1, 1), (20, 200)])
    def test_constant_empty_and_small_scans_have_a_view(self, value: float, shape: tuple[int, int]) -> None:
        view = relief_view(np.full(shape, value))
        assert np.isfinite(view.image).all()
        assert view.scale > 0
        assert view.local > 0
        assert np.isfinite(tip_evidence(view)).all()


class TestEvidence:
    def test_summits_of_spikes_show_the_tip(self) -> None:
        tip = paraboloid(6.0)
        view = relief_view(dilate(spikes(), tip))
        evidence = tip_evidence(view)
        assert evidence.shape == (len(EVIDENCE), TIP_PX, TIP_PX)
        true = np.clip(tip / view.scale / view.local, -4, 0)
        near = true > -0.5
        for name in ("maxima 6 px, quantile 0.3", "blind tip"):
            found = evidence[EVIDENCE.index(name)]
            # Never far below the true tip, and close to it where it is high.
            assert np.abs(found - true)[near].max() < 0.2, name

    def test_a_second_apex_stands_in_the_autocorrelation(self) -> None:
        tip = np.maximum(paraboloid(2.0), np.roll(paraboloid(2.0), (5, 9), (0, 1)))
        evidence = tip_evidence(relief_view(dilate(spikes(), tip)))
        fine = evidence[EVIDENCE.index("autocorrelation")].copy()
        fine[HALF - 4 : HALF + 5, HALF - 4 : HALF + 5] = -1
        peak = np.array(np.unravel_index(int(np.argmax(fine)), fine.shape)) - HALF
        assert np.abs(peak).tolist() == [5, 9]
        assert peak[0] * peak[1] > 0

    def test_a_second_apex_leaves_no_top_hat_of_its_pair(self) -> None:
        tip = np.maximum(paraboloid(6.0), np.roll(paraboloid(6.0), (5, 9), (0, 1)))
        evidence = tip_evidence(relief_view(dilate(spikes(), tip)))
        taken = evidence[EVIDENCE.index("pair, 0 lower")]
        assert taken[HALF + 5, HALF + 9] < -1
        assert abs(taken[HALF + 5, HALF - 9]) < 0.2
        taken[HALF - 3 : HALF + 4, HALF - 3 : HALF + 4] = 0
        # A second apex of the same height is as good in the opposite direction.
        assert abs(np.array(np.unravel_index(int(np.argmin(taken)), taken.shape)) - HALF).tolist() == [5, 9]

    @pytest.mark.parametrize("shape", [(40, 40), (60, 60), (64, 200), (16, 300), (1, 80)])
    def test_a_narrow_scan_shows_no_second_apex_that_is_not_there(self, shape: tuple[int, int]) -> None:
        surface = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
        evidence = tip_evidence(relief_view(dilate(surface, paraboloid(6.0))))
        pairs = [number for number, name in enumerate(EVIDENCE) if name.startswith("pair")]
        away = evidence[pairs].copy()
        away[:, HALF - 3 : HALF + 4, HALF - 3 : HALF + 4] = 0
        assert away.min() > -1

    def test_noise_and_local_height_are_told(self) -> None:
        rng = np.random.default_rng(0)
        heights = terraces(256) + 0.02 * rng.standard_normal((256, 256))
        view = relief_view(heights)
        assert view.noise * view.scale == pytest.approx(np.hypot(0.02, 0.01), rel=0.15)  # steps count a little
        noise, local = tip_evidence(view)[-2:]
        assert noise[0, 0] == pytest.approx(np.log10(view.noise / view.local), abs=1e-6)
        assert local[5, 7] == pytest.approx(np.log10(view.local), abs=1e-6)


class TestTip:
    def test_picture_and_heights_are_inverse(self) -> None:
        tip = paraboloid(5.0)
        back = tip_heights(visible_tip(tip, 0.3), 0.3)
        there = np.isfinite(back)
        np.testing.assert_allclose(back[there], tip[there], atol=1e-5)
        assert there[HALF, HALF + 5]
        assert not there[0, 0]

    def test_channels_of_the_true_tip_give_the_surface_where_it_touched(self) -> None:
        surface = spikes()
        image = dilate(surface, paraboloid(6.0))
        view = relief_view(image)
        channels = restore_channels(view, (paraboloid(6.0) / view.scale).astype(np.float32))
        assert channels.shape == (len(RESTORE_CHANNELS), 128, 128)
        np.testing.assert_array_equal(channels[0], view.image)
        assert (channels[1] <= channels[0] + 1e-6).all()
        certain = channels[2] > 0
        inner = np.zeros_like(certain)
        inner[HALF:-HALF, HALF:-HALF] = True
        assert certain[inner].mean() > 0.5
        true = view.normalised(surface)
        np.testing.assert_allclose(channels[1][certain & inner], true[certain & inner], atol=1e-4)
