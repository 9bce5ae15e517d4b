"""Scenes and scores of restoration: drawn as promised, judged as defined."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spm_kernels import certainty_map, dilate
from spm_training.calibration import reliability
from spm_training.restore.metrics import RIM_PX, inner
from spm_training.restore.scenes import (
    GOOD,
    GOOD_TIP_PX,
    MODALITIES,
    NM_TO_M,
    RestoreOptions,
    Shown,
    evaluation_scenes,
    scan_of,
    validation_scenes,
)
from spm_training.restore.score import (
    Restored,
    merged_reliability,
    score_certainty,
    score_restored,
    score_tip,
    second_apex,
)
from spm_training.simulate.tips import FAMILIES, SURFACES, scene_rng, simulate_tip_scene
from spm_training.simulate.tips.scene import local_height

SMALL = RestoreOptions(images=2, side_px=64)


@pytest.fixture(scope="module")
def shown():
    return list(evaluation_scenes(SMALL))


def a_scene(family, index=0, **options):
    return simulate_tip_scene(scene_rng("test", index), shape=(96, 96), families=[family], **options)


def tip_like(height=-50.0, second=None, second_height=-0.4):
    """A parabola, and a second one where asked for."""
    y, x = np.mgrid[-30:31, -30:31].astype(float)
    tip = -0.05 * (y**2 + x**2)
    if second is not None:
        tip = np.maximum(tip, second_height - 0.05 * ((y - second[0]) ** 2 + (x - second[1]) ** 2))
    return np.maximum(tip, height)


def test_every_family_and_modality_has_as_many_images(shown):
    assert len(shown) == SMALL.total == 20
    for modality in MODALITIES:
        for group in (*FAMILIES, GOOD):
            images = [one for one in shown if (one.scene.modality, one.group) == (modality, group)]
            assert [one.index for one in images] == [0, 1]
            kinds = SURFACES[modality]
            first = kinds.index(images[0].scene.surface)
            assert images[1].scene.surface == kinds[(first + 1) % len(kinds)]
    assert {one.scene.surface for one in shown if one.group != GOOD} == {
        k for kinds in SURFACES.values() for k in kinds
    }


def test_good_tips_are_sharper_than_a_pixel(shown):
    good = [one.scene for one in shown if one.group == GOOD]
    assert max(scene.tip_scale_px for scene in good) <= GOOD_TIP_PX
    for scene in good:
        assert np.std(scene.blurred - scene.clean) < 0.55 * np.std(scene.image - scene.blurred)
    assert {scene.family for scene in good} == {"blunt"}


def test_fewer_images_are_the_first_of_more(shown):
    less = list(evaluation_scenes(replace(SMALL, images=1, families=("double",))))
    for one in less:
        same = next(o for o in shown if (o.group, o.index, o.scene.modality) == (one.group, 0, one.scene.modality))
        np.testing.assert_array_equal(one.scene.image, same.scene.image)


def test_no_image_is_shared_between_groups_or_with_validation(shown):
    every = [one.scene for one in shown] + [one.scene for one in validation_scenes(SMALL)]
    assert len({scene.clean.tobytes() for scene in every}) == len(every)


def test_the_scan_is_the_image_in_metres(shown):
    scene = shown[0].scene
    scan = scan_of(scene)
    assert scan.unit == "m"
    assert scan.pixel_size_nm == (scene.pixel_size_nm, scene.pixel_size_nm)
    np.testing.assert_allclose(scan.image, scene.image * 1e-9, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_clean_surface_scores_best(family):
    scene = a_scene(family)
    score = score_restored(Restored(scene.clean * NM_TO_M, scene.touched), Shown(family, 0, scene), seconds=1)
    assert score.raw.psnr > 100
    assert score.raw.ssim == pytest.approx(1, abs=1e-4)
    assert score.raw.vif == pytest.approx(1, abs=1e-3)
    assert score.harm < 1e-4
    assert np.abs(score.shift_yx_px).max() < 0.01
    assert (score.certainty is None) == (family == "convolution")


def test_an_unchanged_image_is_no_change():
    scene = a_scene("blunt")
    score = score_restored(Restored(scan_of(scene).image), Shown("blunt", 0, scene), seconds=0)
    assert score.change == pytest.approx(0, abs=1e-3)
    assert score.harm == pytest.approx(1, rel=1e-3)
    noise = score_restored(Restored(scene.blurred * NM_TO_M), Shown("blunt", 0, scene), seconds=0)
    assert noise.change == pytest.approx(1, rel=1e-3)
    assert score.unharmed
    assert not replace(score, change=1.2, harm=1.1).unharmed
    assert replace(score, change=1.2, harm=0.9).unharmed


def test_a_moved_image_is_bad_raw_and_good_registered():
    scene = a_scene("hackathon")
    moved = np.roll(scene.clean, (3, -2), axis=(0, 1)) + 0.5 * np.ptp(scene.clean)
    score = score_restored(Restored(moved * NM_TO_M), Shown("hackathon", 0, scene), seconds=0)
    assert score.shift_yx_px == pytest.approx((3, -2), abs=0.05)
    assert score.offset == pytest.approx(0.5 * np.ptp(scene.clean) / np.ptp(inner(scene.clean)), rel=1e-3)
    assert score.registered.psnr > score.raw.psnr + 20
    assert score.fair == score.registered
    assert replace(score, group="blunt").fair == score.raw


@pytest.mark.parametrize("heights", [np.zeros((96, 95), np.float32), np.full((96, 96), np.nan, np.float32)])
def test_heights_of_a_wrong_shape_or_missing_are_a_mistake(heights):
    with pytest.raises(ValueError, match="restored heights"):
        score_restored(Restored(heights), Shown("blunt", 0, a_scene("blunt")), seconds=0)


def test_certainty_is_counted_in_the_inner_frame(rng):
    touched = rng.random((64, 64)) < 0.6
    right = score_certainty(touched, touched)
    assert (right.auc, right.wrong, right.missed) == (1, 0, 0)
    assert right.right == inner(touched).sum()
    assert right.reliability.expected_error == 0
    wrong = score_certainty(~touched, touched)
    assert (wrong.auc, wrong.right) == (0, 0)
    rim = touched.copy()
    rim[:RIM_PX] = ~rim[:RIM_PX]
    assert score_certainty(rim, touched).wrong == 0
    assert np.isnan(score_certainty(touched, np.ones_like(touched)).auc)


def test_certainty_follows_the_shift_of_the_hackathons_tip():
    scene = a_scene("hackathon", 3)
    moved = [np.roll(values, (4, -3), axis=(0, 1)) for values in (scene.clean, scene.touched)]
    score = score_restored(Restored(moved[0] * NM_TO_M, moved[1]), Shown("hackathon", 0, scene), seconds=0)
    assert score.certainty.wrong == score.certainty.missed == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_reliabilities_of_parts_are_that_of_the_whole(seed, count):
    rng = np.random.default_rng(seed)
    score, true = rng.random(200) ** 3, rng.random(200) < 0.5
    whole = reliability(score, true)
    parts = [reliability(s, t) for s, t in zip(np.array_split(score, count), np.array_split(true, count), strict=True)]
    merged = merged_reliability(parts)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_allclose(merged.mean_score, whole.mean_score)
    np.testing.assert_allclose(merged.share_true, whole.share_true)


def test_the_local_height_of_a_slope_is_three_times_its_rise_over_eight_pixels():
    slope = np.add.outer(np.arange(64.0), np.zeros(64))
    assert local_height(slope) == pytest.approx(3 * np.sqrt(8**2 / 2))


@pytest.mark.parametrize("second", [(7, 0), (-5, 9), (0, -12), (-4, -3)])
def test_the_second_apex_is_found(second):
    assert second_apex(tip_like(height=-3, second=second)) == second


def test_one_apex_is_no_second_one():
    assert second_apex(tip_like(height=-3)) is None
    assert second_apex(np.minimum(tip_like(height=-3), -0.5)) is None  # a flat end
    shelf = np.maximum(tip_like(height=-3), -1.0 - 2.0 * (np.indices((61, 61))[0] > 30))
    assert second_apex(shelf) is None


def with_tip(scene, tip):
    return replace(scene, tip=tip.astype(np.float32), second_yx_px=(7.0, 0.0))


def test_the_true_tip_has_no_error():
    scene = with_tip(a_scene("double"), tip_like(second=(7, 0)))
    score = score_tip(scene.tip, scene)
    assert score.error == 0
    assert (score.true_two, score.found_two, score.second_px) == (True, True, 0)


def test_the_error_of_a_tip_is_that_of_what_can_touch():
    scene = with_tip(a_scene("double"), tip_like(second=(7, 0)))
    reach = local_height(scene.clean)
    deeper = np.where(scene.tip > -reach, scene.tip, 2 * scene.tip)
    assert score_tip(deeper, scene).error == 0
    needle = np.full((15, 15), -1e9)
    needle[7, 7] = 0
    truth = np.maximum(scene.tip, -reach)
    matters = truth > -reach
    expected = (
        np.sqrt((np.sum((truth + reach)[matters] ** 2) - reach**2) / matters.sum()) / reach
    )  # right at the apex alone
    assert score_tip(needle, scene).error == pytest.approx(expected, rel=1e-6)
    assert not score_tip(needle, scene).found_two


def test_a_tip_off_the_middle_is_centred_first():
    scene = replace(a_scene("hackathon"), apex_yx_px=(5.0, -3.0))
    tip = tip_like(height=-1e9)
    scene = replace(scene, tip=np.roll(tip, (5, -3), axis=(0, 1)).astype(np.float32), second_yx_px=None)
    assert score_tip(tip, scene).error < 0.01
    assert score_tip(scene.tip, scene).error > 0.05


def test_the_certainty_of_the_true_tip_is_right():
    scene = a_scene("blunt", 2)
    said = score_certainty(certainty_map(dilate(scene.clean, scene.tip), scene.tip, tolerance=1e-4), scene.touched)
    assert said.right > 5 * said.wrong
