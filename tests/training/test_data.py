"""Targets against a plain reference; samples as pure functions of their keys."""

import numpy as np
import pytest
import torch

from spm_training.data import (
    AtomsDataset,
    BatchSampler,
    Split,
    confidence_target,
    rng_for,
    train_loader,
    validation_batches,
)
from spm_training.recipe import TargetOptions
from spm_training.simulate.columns import simulate_columns


def reference_target(yx, sigma, shape):
    """Every Gaussian on the whole image, the largest kept."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    maps = [np.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / (2 * sigma**2)) for p in yx]
    return np.max(maps, axis=0) if maps else np.zeros(shape)


@pytest.mark.parametrize("spacing", [4.0, 12.0, 30.0])
def test_the_target_is_the_largest_gaussian(rng, spacing):
    scene = simulate_columns(rng, shape=(64, 80), spacing_px=(spacing, spacing))
    options = TargetOptions(sigma_fraction=0.18, sigma_min_px=0.7)
    target, weight = confidence_target(scene, options)
    sigma = max(0.18 * scene.spacing_px, 0.7)
    expected = reference_target(scene.yx_px[scene.required], sigma, (64, 80))
    optional = reference_target(scene.yx_px[~scene.required], sigma, (64, 80))
    np.testing.assert_allclose(target, expected, atol=1e-5)
    np.testing.assert_allclose(weight, 1 - np.maximum(optional - expected, 0), atol=1e-5)
    assert target.dtype == weight.dtype == np.float32
    assert target.min() >= 0
    assert target.max() <= 1


def test_the_peak_lies_between_the_pixels_where_the_column_does(rng):
    import dataclasses

    scene = simulate_columns(rng, shape=(32, 32), spacing_px=(12.0, 12.0))
    place = np.array([[15.3, 16.8]])
    scene = dataclasses.replace(scene, yx_px=place, required=np.array([True]), sublattice=np.zeros(1, np.int32))
    target, _ = confidence_target(scene, TargetOptions())
    y, x = np.mgrid[:32, :32]
    weight = target.astype(np.float64)
    centre = [(weight * axis).sum() / weight.sum() for axis in (y, x)]
    np.testing.assert_allclose(centre, place[0], atol=1e-4)


def test_a_scene_without_columns_has_an_empty_target(rng):
    import dataclasses

    scene = simulate_columns(rng, shape=(32, 32))
    empty = dataclasses.replace(scene, yx_px=np.zeros((0, 2)), required=np.zeros(0, bool))
    target, weight = confidence_target(empty, TargetOptions())
    assert not target.any()
    assert (weight == 1).all()


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
    image, target, weight, spacing = first
    assert image.shape == target.shape == weight.shape == (1, 32, 32)
    assert spacing.shape == ()
    assert all(tensor.dtype == torch.float32 for tensor in first)
    assert torch.isfinite(image).all()


def test_splits_and_epochs_have_streams_of_their_own():
    draws = {
        rng_for(seed, split, epoch, index).integers(2**63)
        for seed in (0, 1)
        for split in Split
        for epoch in (0, 1)
        for index in (0, 1)
    }
    assert len(draws) == 2 * 3 * 2 * 2


def test_ranks_share_every_batch_and_a_resume_skips_what_was_seen(tiny):
    options = tiny("data.batch=6").data
    alone = BatchSampler(options, rank=0, world_size=1)
    alone.epoch = 3
    batches = list(alone)
    assert len(batches) == len(alone) == 3
    assert batches[0] == [(3, i) for i in range(6)]
    shares = []
    for rank in range(2):
        sampler = BatchSampler(options, rank=rank, world_size=2)
        sampler.epoch = 3
        shares.append(list(sampler))
    for step, batch in enumerate(batches):
        assert sorted(shares[0][step] + shares[1][step]) == batch
        assert len(shares[0][step]) == len(shares[1][step])
    alone.first_step = 2
    assert list(alone) == batches[2:]
    assert len(alone) == 1


def test_worker_processes_change_nothing(tiny):
    dataset = AtomsDataset(tiny(), Split.TRAIN)
    runs = []
    for workers in (0, 2):
        loader, sampler = train_loader(dataset, workers=workers)
        sampler.epoch = 1
        runs.append([*loader])
    assert len(runs[0]) == len(runs[1]) == 3
    assert all(same(a, b) for a, b in zip(*runs, strict=True))


def test_the_validation_set_is_fixed_and_shared_out_whole(tiny):
    dataset = AtomsDataset(tiny("data.validation_images=5"), Split.VALIDATION)
    whole = torch.cat([batch.image for batch in validation_batches(dataset)])
    again = torch.cat([batch.image for batch in validation_batches(dataset)])
    shares = [torch.cat([batch.image for batch in validation_batches(dataset, rank=r, world_size=2)]) for r in range(2)]
    assert torch.equal(whole, again)
    assert len(whole) == 5
    assert torch.equal(whole[0::2], shares[0])
    assert torch.equal(whole[1::2], shares[1])
