"""Tips of several heights, tried on an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from spm_kernels import dilate
from spm_runtime.pipelines.relief import TIP_PX, ReliefView, relief_view
from spm_runtime.pipelines.tip_candidates import FACTORS, FACTS, PER_CANDIDATE, candidate_facts, chosen_factor

HALF = TIP_PX // 2


def paraboloid(reach: float) -> NDArray[np.float32]:
    y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    return (-(y**2 + x**2) / reach**2).astype(np.float32)


@pytest.fixture
def view() -> ReliefView:
    """Sharp points under a round tip, without noise."""
    surface = np.zeros((128, 128), np.float32)
    for y, x in np.random.default_rng(0).integers(20, 108, (30, 2)):
        surface[y, x] = 1.0
    return relief_view(dilate(surface, paraboloid(6.0)))


def test_what_is_too_blunt_leaves_residues(view: ReliefView) -> None:
    facts = candidate_facts(view, (paraboloid(6.0) / view.scale).astype(np.float32))
    assert facts.shape == (FACTS,)
    assert facts.dtype == np.float32
    assert np.isfinite(facts).all()
    rms_residue = facts[1 : PER_CANDIDATE * len(FACTORS) : PER_CANDIDATE]
    right = FACTORS.index(1.0)
    assert rms_residue[right] < np.log(1e-3)  # the true tip explains the image
    assert (rms_residue[right:] < np.log(0.015)).all()  # and so do sharper ones, but for the grid of pixels
    assert (rms_residue[:right] > np.log(0.03)).all()
    assert (np.diff(rms_residue[:right]) < 0).all()


def test_facts_do_not_depend_on_the_unit(view: ReliefView) -> None:
    tip = paraboloid(6.0)
    larger = replace(view, image=2 * view.image, noise=2 * view.noise, local=2 * view.local)
    np.testing.assert_allclose(candidate_facts(larger, 2 * tip)[:-1], candidate_facts(view, tip)[:-1], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (700, 20)])
def test_any_shape_has_facts(shape: tuple[int, int]) -> None:
    view = relief_view(np.random.default_rng(0).random(shape))
    assert np.isfinite(candidate_facts(view, paraboloid(6.0))).all()


def test_the_least_error_is_found_between_the_candidates() -> None:
    at = np.log(FACTORS)
    for factor in (0.3, 0.9, 1.0, 3.1, 6.0):
        assert chosen_factor(((at - np.log(factor)) ** 2).astype(np.float32)) == pytest.approx(factor, rel=1e-3)
    assert chosen_factor(at.astype(np.float32)) == FACTORS[0]
    assert chosen_factor(-at.astype(np.float32)) == FACTORS[-1]
