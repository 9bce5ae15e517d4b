"""Scores of latents, each against what is known."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from spm_training.studies.latent_scores import (
    POOLINGS,
    Encoded,
    Probed,
    active_units,
    correlations,
    paired_gain,
    pooled,
    probe,
    probe_all,
    silhouette,
    total_correlation,
)


def encoded(shift, *, images=30, patches=40, spread=1.0, seed=0):
    """Images of three kinds: latents around a middle of their own, `shift` apart in the first dimension."""
    rng = np.random.default_rng(seed)
    label = np.arange(images) % 3
    middle = np.stack([shift * label, np.zeros(images)], axis=1)
    return Encoded(middle[:, None] + spread * rng.standard_normal((images, patches, 2)), label, np.arange(images))


class TestProbes:
    def test_what_is_far_apart_is_always_right(self):
        found = probe_all(encoded(20.0))
        assert list(found) == ["patch", "votes", *POOLINGS]
        for name in ("patch", "votes", "mean", "std"):
            assert found[name].accuracy == 1.0
        assert min(one.accuracy for one in found.values()) > 0.9

    def test_a_patch_is_as_right_as_gaussians_allow(self):
        """Three Gaussians of σ 1, two apart: the outer ones are right with Φ(1), the middle one with 2 Φ(1) − 1."""
        found = probe_all(encoded(2.0, images=90, patches=200), 200)
        assert found["patch"].accuracy == pytest.approx((2 * 0.8413 + 0.6827) / 3, abs=0.015)
        assert found["votes"].accuracy == found["mean"].accuracy == 1.0

    def test_without_a_difference_it_is_chance(self):
        found = probe_all(encoded(0.0, images=120))
        assert found["patch"].accuracy == pytest.approx(1 / 3, abs=0.03)
        assert found["mean"].accuracy == pytest.approx(1 / 3, abs=0.12)

    def test_a_surface_is_never_told_by_itself(self):
        """Features that name the surface say nothing of its kind to those who did not see it."""
        surface = np.repeat(np.arange(20), 5)
        label = np.random.default_rng(0).permutation(np.arange(20) % 2)[surface]
        found = probe(np.eye(20)[surface], label, surface)
        assert found.accuracy <= 0.5

    def test_the_spread_of_the_patches_can_be_what_differs(self):
        rng = np.random.default_rng(0)
        label = np.arange(40) % 2
        one = Encoded((1 + label)[:, None, None] * rng.standard_normal((40, 300, 3)), label, np.arange(40))
        found = probe_all(one)
        assert found["std"].accuracy == 1.0
        assert found["mean"].accuracy < 0.8

    def test_a_gain_is_paired(self):
        label = np.zeros(8, int)
        new, old = (
            Probed(np.stack([right, 1 - right], axis=1), label) for right in (np.ones(8), np.array([1] * 6 + [0] * 2))
        )
        surface = np.repeat(np.arange(4), 2)
        gain, error = paired_gain(new, old, surface)
        assert gain == pytest.approx(0.25)
        assert error == pytest.approx(np.std([0, 0, 0, 1], ddof=1) / 2)
        assert paired_gain(old, old, surface) == (0, 0)


def test_some_patches_are_the_same_of_every_image():
    every = encoded(1.0)
    some = every.some(5)
    assert some.latents.shape == (30, 5, 2)
    places = [
        np.flatnonzero((one[:, None] == few).all(axis=2).any(axis=1))
        for one, few in zip(every.latents, some.latents, strict=True)
    ]
    assert len({tuple(one) for one in places}) == 1
    assert every.some(100).latents.shape == every.latents.shape


def test_pooling_is_that_of_numpy():
    latents = np.random.default_rng(0).standard_normal((3, 50, 4))
    latents[1, :, 2] = 7.0
    first = latents[0]
    np.testing.assert_allclose(pooled(latents, "mean")[0], first.mean(axis=0))
    np.testing.assert_allclose(pooled(latents, "std")[0, 4:], first.std(axis=0))
    found = pooled(latents, "correlations")
    np.testing.assert_allclose(found[0, 8:], np.corrcoef(first, rowvar=False)[np.triu_indices(4, 1)])
    assert np.isfinite(found).all()
    found = pooled(latents, "quantiles")
    np.testing.assert_allclose(found[:, :14], pooled(latents, "correlations"))
    np.testing.assert_allclose(found[0, 26:30], np.median(first, axis=0))
    assert found.shape == (3, 14 + 7 * 4)
    with pytest.raises(ValueError, match="pooling 'sum'"):
        pooled(latents, "sum")


def test_silhouettes_do_not_depend_on_units():
    one = encoded(4.0)
    label = one.of_patches(one.label)
    scaled = one.patches / one.patches.std(axis=0)
    assert silhouette(one.patches, label) == pytest.approx(silhouette_score(scaled, label))
    assert silhouette(one.patches * [1, 1e4] + 7, label) == pytest.approx(silhouette(one.patches, label))


class TestDisentanglement:
    def test_correlations_are_those_of_numpy_and_a_constant_has_none(self):
        latents = np.random.default_rng(0).standard_normal((200, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 0]])
        found = correlations(latents + 5)
        np.testing.assert_allclose(found[:2, :2], np.corrcoef(latents[:, :2], rowvar=False))
        np.testing.assert_array_equal(found[2], [0, 0, 1])

    @pytest.mark.parametrize("rho", [0.0, 0.6, -0.9])
    def test_the_total_correlation_of_two_gaussians_is_their_mutual_information(self, rho):
        rng = np.random.default_rng(0)
        pair = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 200_000)
        assert total_correlation(pair * [3, 0.1] - 2) == pytest.approx(-np.log(1 - rho**2) / 2, abs=0.01)

    def test_units_that_never_move_are_not_active(self):
        assert active_units(np.random.default_rng(0).standard_normal((5000, 4)) * [1, 0.05, 0.2, 0]) == 2
