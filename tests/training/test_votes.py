"""Atoms by votes: votes of a known network, maps and peaks with known places."""

import numpy as np
import pytest
import torch

from spm_training.metrics import Counts
from spm_training.networks.cae import CaeTwin, PatchDenoiser, TwinOutput
from spm_training.studies.votes import (
    STRIDE_PX,
    Setting,
    best_setting,
    counts_of,
    peaks_of,
    smoothed,
    vote_map,
    votes_of,
)


class Brightest(PatchDenoiser):
    """Says that the nearest atom is the brightest pixel of the patch."""

    def __init__(self) -> None:
        super().__init__(CaeTwin())

    def forward(self, patch):
        place = patch.flatten(1).argmax(dim=1)
        offset = torch.stack([place // 17, place % 17], dim=1) - 8.0
        return TwinOutput(patch, patch.new_zeros(len(patch), 10), patch, offset)


def test_a_vote_is_the_middle_of_the_patch_and_its_offset():
    image = np.zeros((40, 50), np.float32)
    image[20, 31] = 1.0
    votes = votes_of(Brightest(), image)
    right = (votes == [20, 31]).all(axis=1)
    # The patches that hold the pixel: 17 of them per axis, every second one looked at.
    assert right.sum() in (
        (17 // STRIDE_PX) ** 2,
        (17 // STRIDE_PX) * (17 // STRIDE_PX + 1),
        (17 // STRIDE_PX + 1) ** 2,
    )


def test_agreeing_votes_add_up():
    votes = np.array([[10.0, 12.0]] * 5 + [[30.0, 3.0]] * 2 + [[-20.0, 0.0]])
    found = vote_map(votes, 1.0, (40, 20))
    assert found[10, 12] == pytest.approx(5)
    assert found[30, 3] == pytest.approx(2)
    assert found.sum() == pytest.approx(7 * 2 * np.pi, rel=1e-2)


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_peaks_are_found_between_pixels_and_low_ones_are_left_out(blur):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(8, 90, 12.0), np.arange(8, 90, 12.0), indexing="ij"), axis=-1).reshape(-1, 2)
    truth = grid + rng.uniform(-1, 1, grid.shape)
    y, x = np.mgrid[:96, :96]
    height = np.where(np.arange(len(truth)) % 7 == 3, 0.2, 1.0)
    image = sum(h * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 8) for h, (a, b) in zip(height, truth, strict=True))
    smooth = smoothed(image.astype(np.float32), blur)
    found = counts_of(peaks_of(smooth, 0.5), truth[height == 1], 1.0, (96, 96))
    assert (found.precision, found.recall) == (1, 1)
    assert found.rms_px < 0.1
    every = counts_of(peaks_of(smooth, 0.1), truth, 1.0, (96, 96))
    assert (every.precision, every.recall) == (1, 1)


def test_atoms_at_the_border_may_be_found_or_not():
    truth = np.array([[10.0, 10.0], [0.5, 20.0], [38.5, 39.0]])
    for found, wrong in ((truth, 0), (truth[:1], 0), (np.vstack([truth, [[30.0, 20.0]]]), 1)):
        counts = counts_of(found, truth, 2.0, (40, 40))
        assert (counts.true_positive, counts.false_positive, counts.false_negative) == (1, wrong, 0)


def test_the_best_setting_has_the_highest_f1():
    def score(one):
        good = int(100 - 10 * abs(one.sigma_px - 1.5) - 100 * abs(one.share - 0.3))
        return Counts(good, 100 - good, 100 - good)

    setting, counts = best_setting(score, (0.5, 1.5, 2.0), (0.1, 0.3))
    assert setting == Setting(1.5, 0.3)
    assert counts.f1 == 1
