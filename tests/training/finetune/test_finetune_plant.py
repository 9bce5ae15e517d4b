"""Planted defects: where nothing is, as large as they are said to be, and only there."""

import numpy as np
import pytest

from spm_runtime.pipelines.marks import Marks
from spm_runtime.scan import Scan
from spm_training.finetune.plant import (
    DOUBTFUL,
    SURE,
    Ground,
    _atoms,
    _spacing_nm,
    class_shares,
    plant,
    survey,
)
from spm_training.finetune.scans import UserImage, _view, views_of
from spm_training.simulate.surfaces import DEFECT_CLASSES

PIXEL = 0.08
EVEN = np.full(len(DEFECT_CLASSES), 1 / len(DEFECT_CLASSES))


class Finder:
    """A session that finds a defect at a place and at its mirror images, and steps along two borders."""

    def __init__(self, package, yx, score) -> None:
        self.package, self.yx, self.score = package, yx, score

    def run(self, inputs):
        image = inputs["image"]
        shape = (1, 1, *image.shape[2:])
        found = {name: np.zeros(shape, np.float32) for name in ("presence", "inside", "step")}
        for y, x in ((y, x) for y in (self.yx[0], -1 - self.yx[0]) for x in (self.yx[1], -1 - self.yx[1])):
            found["presence"][0, 0, y, x] = self.score
        found["step"][..., 1:3] = found["step"][..., -3:-1] = 1.0
        kind = np.zeros((1, len(DEFECT_CLASSES), *shape[2:]), np.float32)
        kind[:, 2] = 1
        return {**found, "radius_px": np.full(shape, 6, np.float32), "kind": kind}


def view_of(image, package):
    return _view(Scan(image, unit="nm", pixel_size_nm=(PIXEL, PIXEL), modality="stm", channel="Z"), package)


@pytest.fixture(scope="module")
def ground(package, scene):
    """A surface without defects on which the finder is sure of one all the same."""
    view = view_of(scene(11, shape=(96, 112), defects=False).image, package)
    found = survey(view, Finder(package, (30, 40), 0.9))
    assert isinstance(found, Ground)
    return found


def test_what_the_finder_sees_is_known(ground):
    assert len(ground.marks) == 4
    assert ground.sure.all()
    assert ground.steps[:, -3:-1].any()
    assert not ground.steps[:, 10:60].any()
    for centre in ground.marks.yx_px:
        y, x = np.rint(centre).astype(int)
        assert ground.distance_px[y, x] < 0


def test_defects_are_planted_where_nothing_is_and_change_nothing_else(ground, rng):
    kinds = set()
    for _ in range(12):
        planted = plant(rng, ground, EVEN, always=True)
        kinds |= set(planted.kind.tolist())
        difference = np.abs(planted.surface.heights - ground.view.surface.heights)
        away = np.full(difference.shape, np.inf)
        y, x = np.ogrid[: difference.shape[0], : difference.shape[1]]
        for centre, radius in zip(planted.yx_px, planted.radius_px, strict=True):
            row, column = np.clip(np.rint(centre).astype(int), 0, np.array(difference.shape) - 1)
            assert ground.distance_px[row, column] >= radius
            distance = np.hypot(y - centre[0], x - centre[1])
            away = np.minimum(away, distance / radius)
            assert difference[distance <= radius].max() > 0.004
        assert difference[away > 4].max(initial=0) < 0.01  # halos reach far
    assert len(kinds) > 4


def test_the_same_draw_gives_the_same_defects(ground):
    one, two = (plant(np.random.default_rng(3), ground, EVEN) for _ in range(2))
    np.testing.assert_array_equal(one.surface.heights, two.surface.heights)
    np.testing.assert_array_equal(one.yx_px, two.yx_px)


def test_a_surface_full_of_marks_gets_none(ground):
    import dataclasses

    full = dataclasses.replace(ground, distance_px=np.full(ground.steps.shape, -1.0))
    planted = plant(np.random.default_rng(0), full, EVEN, always=True)
    assert not len(planted.kind)
    np.testing.assert_array_equal(planted.surface.heights, ground.view.surface.heights)


def test_classes_that_the_finder_is_sure_of_are_planted_more_often(ground):
    import dataclasses

    def with_marks(count, score):
        chance = np.zeros((count, len(DEFECT_CLASSES)), np.float32)
        chance[:, DEFECT_CLASSES.index("dangling-bond")] = 1
        marks = Marks(np.zeros((count, 2)), np.full(count, score, np.float32), np.ones(count), chance)
        return dataclasses.replace(ground, marks=marks)

    bond = DEFECT_CLASSES.index("dangling-bond")
    for found in (class_shares([with_marks(30, 0.9)]), class_shares([with_marks(9, 0.9)]), class_shares([ground])):
        assert found.sum() == pytest.approx(1)
    assert class_shares([with_marks(15, SURE), with_marks(15, 0.9)])[bond] == pytest.approx(0.5)
    assert class_shares([with_marks(9, 0.9)])[bond] == 0
    assert class_shares([with_marks(30, DOUBTFUL)])[bond] == 0


def test_the_spacing_of_a_lattice_and_its_atoms(rng):
    y, x = np.indices((128, 120)) * PIXEL
    for spacing in (0.35, 0.7):
        k = 2 * np.pi / spacing
        fine = (0.02 * (np.cos(k * y) + np.cos(k * x)) + rng.normal(0, 0.004, y.shape)).astype(np.float32)
        assert _spacing_nm(fine, PIXEL) == pytest.approx(spacing, rel=0.06)
        places, relief = _atoms(fine, np.ones(fine.shape, bool), spacing / PIXEL)
        expected = (128 * PIXEL / spacing) * (120 * PIXEL / spacing)
        assert len(places) == pytest.approx(expected, rel=0.15)
        assert 0.015 < np.median(relief) < 0.05


def test_noise_has_no_spacing_of_its_own(rng):
    assert _spacing_nm(rng.normal(size=(96, 96)).astype(np.float32), PIXEL) == 0.3


def test_views_of_images(ground):
    image = UserImage(None, "", (ground.view, ground.view))
    assert views_of([image, image]) == [ground.view] * 4
