"""Maps to learn against a plain reference; samples as pure functions of their keys."""

import dataclasses

import numpy as np
import pytest
import torch

from spm_training.data import AtomsDataset, Split, rng_for, target_of
from spm_training.recipe import TargetOptions
from spm_training.simulate.columns import simulate_columns


def reference_target(yx, sigma, shape):
    """Every Gaussian on the whole image, the largest kept."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    maps = [np.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / (2 * sigma**2)) for p in yx]
    return np.max(maps, axis=0) if maps else np.zeros(shape)


def reference_offset(yx, shape):
    """The vector to the nearest column at every pixel, by comparing all of them, and its length."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    to_all = np.array([[p[0] - y, p[1] - x] for p in yx])  # (N, 2, H, W)
    nearest = np.hypot(to_all[:, 0], to_all[:, 1]).argmin(axis=0)
    vector = np.take_along_axis(to_all, nearest[None, None], axis=0)[0]
    return vector, np.hypot(*vector)


def scene_with(rng, yx, required, shape=(40, 48), spacing=9.0):
    """A scene whose columns are these."""
    scene = simulate_columns(rng, shape=shape, families=["square"], spacing_px=(spacing, spacing))
    yx = np.asarray(yx, float).reshape(-1, 2)
    return dataclasses.replace(
        scene,
        yx_px=yx,
        required=np.asarray(required, bool),
        sublattice=np.zeros(len(yx), np.int32),
        crb_px=np.ones(len(yx)),
    )


@pytest.mark.parametrize("spacing", [4.0, 12.0, 30.0])
def test_the_maps_are_those_of_the_nearest_column(rng, spacing):
    yx = rng.uniform(-0.5, [63.5, 79.5], (40, 2))
    scene = scene_with(rng, yx, rng.random(40) < 0.7, shape=(64, 80), spacing=spacing)
    options = TargetOptions(sigma_fraction=0.18, sigma_min_px=0.7)
    target = target_of(scene, options)
    sigma = max(0.18 * scene.spacing_px, 0.7)
    expected = reference_target(scene.yx_px[scene.required], sigma, (64, 80))
    optional = reference_target(scene.yx_px[~scene.required], sigma, (64, 80))
    np.testing.assert_allclose(target.confidence, expected, atol=1e-5)
    np.testing.assert_allclose(target.weight, 1 - np.maximum(optional - expected, 0), atol=1e-5)
    vector, distance = reference_offset(scene.yx_px[scene.required], (64, 80))
    near = distance < 4.9 * sigma
    np.testing.assert_allclose(target.offset[:, near], vector[:, near], atol=1e-5)
    assert not target.offset[:, distance > 5.1 * sigma].any()
    assert {one.dtype for one in target} == {np.dtype(np.float32)}
    assert target.confidence.min() >= 0
    assert target.confidence.max() <= 1


def test_the_offset_leads_from_every_pixel_near_a_column_onto_it(rng):
    place = np.array([15.3, 16.8])
    target = target_of(scene_with(rng, [place], [True]), TargetOptions())
    y, x = np.mgrid[:40, :48]
    near = target.confidence > 0.01
    assert near.sum() > 20
    np.testing.assert_allclose(
        (np.stack([y, x]) + target.offset)[:, near].T, np.tile(place, (near.sum(), 1)), atol=1e-5
    )
    weight = target.confidence.astype(np.float64)
    np.testing.assert_allclose([(weight * axis).sum() / weight.sum() for axis in (y, x)], place, atol=1e-4)


def test_the_weight_falls_at_optional_columns_and_nowhere_else(rng):
    """0 at an optional column, 1 away from it, and 1 at a required one however close the optional one is."""
    target = target_of(scene_with(rng, [[10, 10], [30, 30], [30, 32]], [False, True, False]), TargetOptions())
    assert target.weight[10, 10] == 0
    assert target.confidence[10, 10] == 0
    assert target.weight[10, 20] == pytest.approx(1)
    assert target.weight[30, 30] == 1
    assert target.weight[30, 33] < 0.7
    assert not target.offset[:, 10, 10].any()


def test_a_scene_without_columns_has_empty_maps(rng):
    target = target_of(scene_with(rng, [], []), TargetOptions())
    assert not target.confidence.any()
    assert not target.offset.any()
    assert (target.weight == 1).all()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_sample_depends_on_its_key_alone(tiny):
    recipe = tiny()
    train, validation = AtomsDataset(recipe, Split.TRAIN), AtomsDataset(recipe, Split.VALIDATION)
    first = train[2, 5]
    _ = train[0, 0], train[7, 1]
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(train[2, 5], first)
    assert same(AtomsDataset(recipe, Split.TRAIN)[2, 5], first)
    for other in (train[2, 6], train[3, 5], validation[2, 5], AtomsDataset(tiny("training.seed=1"), Split.TRAIN)[2, 5]):
        assert not torch.equal(other[0], first[0])
    image, target, weight, offset, spacing = first
    assert image.shape == target.shape == weight.shape == (1, 32, 32)
    assert offset.shape == (2, 32, 32)
    assert spacing.shape == ()
    assert all(tensor.dtype == torch.float32 for tensor in first)
    assert torch.isfinite(image).all()


def test_a_sample_holds_the_families_spacings_and_noise_of_its_recipe(tiny):
    from spm_training.data import draw_scene

    recipe = tiny(
        "simulator.families=['square']",
        "simulator.spacing_min_px=8",
        "simulator.spacing_max_px=8.5",
        "simulator.detectability_min=5",
        "simulator.detectability_max=6",
    )
    scenes = [draw_scene(recipe, Split.TRAIN, 0, index) for index in range(5)]
    assert {scene.family for scene in scenes} == {"square"}
    assert all(scene.image.shape == (32, 32) for scene in scenes)
    assert all(8 <= scene.spacing_px <= 8.5 for scene in scenes)
    assert all(5 <= scene.detectability <= 6 for scene in scenes)


def test_splits_and_epochs_have_streams_of_their_own():
    draws = {
        rng_for(seed, split, epoch, index).integers(2**63)
        for seed in (0, 1)
        for split in Split
        for epoch in (0, 1)
        for index in (0, 1)
    }
    assert len(draws) == 2 * 3 * 2 * 2
