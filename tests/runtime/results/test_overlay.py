import numpy as np
import pytest

from spm_runtime.results._overlay import ATOM_COLOURS, MISSING_DARK, MISSING_LIGHT, _round_length, draw_overlay

RED = np.array(ATOM_COLOURS[0])


def pixels(scan, results, title="a.sxm"):
    return np.asarray(draw_overlay(scan, results, title)).astype(int)


def near(picture, colour, tolerance=30):
    return np.abs(picture - np.array(colour)).max(axis=-1) <= tolerance


@pytest.mark.parametrize("shape", [(16, 16), (48, 64), (300, 333), (700, 1200)])
def test_small_scans_are_magnified_by_a_whole_factor(make_scan, make_result, shape):
    scan = make_scan(shape)
    image = draw_overlay(scan, [make_result(scan)], "a.sxm")
    assert image.width >= 1000
    assert image.width % shape[1] == 0
    assert image.height > image.width // shape[1] * shape[0]  # room for the words below


def test_extreme_shapes_stay_within_bounds(make_scan, make_result):
    for shape in ((1024, 16), (16, 1024), (9000, 10), (1, 1)):
        scan = make_scan(shape)
        image = draw_overlay(scan, [make_result(scan, [(0, 0)])], "a.sxm")
        assert max(image.size) <= 4200
        assert image.width >= 640


def test_every_atom_carries_a_red_dot_on_its_sub_pixel_position(make_scan, make_result):
    scan = make_scan()
    yx = np.array([(8.0, 8.0), (16.25, 24.5), (40.0, 56.0)])
    picture = pixels(scan, [make_result(scan, yx)])
    zoom = picture.shape[1] // 64
    centres = (yx + 0.5) * zoom - 0.5
    for y, x in centres:
        window = near(picture[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5], RED)
        ys, xs = np.nonzero(window)
        assert abs(ys.mean() + round(y) - 4 - y) < 0.6
        assert abs(xs.mean() + round(x) - 4 - x) < 0.6


def test_rings_leave_the_atom_visible_and_follow_the_spacing(make_scan, make_result):
    scan = make_scan()
    inked = {}
    for spacing in (2.0, 4.0):
        result = make_result(scan, [(24.0, 32.0)], quantities={"spacing_px": spacing})
        red = near(pixels(scan, [result]), RED, 60)
        ys, xs = np.nonzero(red)
        inked[spacing] = np.ptp(xs)
        assert red.sum() < 0.35 * np.ptp(ys) * np.ptp(xs)
    assert inked[4.0] > 1.5 * inked[2.0]


def test_few_atoms_take_their_rings_from_the_predicted_spacing_and_print_none(make_scan, make_result):
    scan = make_scan()
    measured = pixels(scan, [make_result(scan, [(24.0, 32.0)], quantities={"spacing_px": 4.0})])
    predicted = pixels(scan, [make_result(scan, [(24.0, 32.0)], quantities={"predicted_spacing_px": 4.0})])
    height = measured.shape[1] * scan.shape[0] // scan.shape[1]
    np.testing.assert_array_equal(predicted[:height], measured[:height])
    assert (predicted[height:] != measured[height:]).any()  # the words: no spacing was measured


def test_sublattices_have_their_own_colours(make_scan, make_result):
    scan = make_scan()
    picture = pixels(scan, [make_result(scan, [(8, 8), (24, 40)], sublattice=[0, 1])])
    assert near(picture, ATOM_COLOURS[0]).any()
    assert near(picture, ATOM_COLOURS[1]).any()
    assert not near(picture, ATOM_COLOURS[2]).any()


def test_missing_parts_are_hatched_and_nothing_else_is(make_scan, make_result):
    image = make_scan().image.copy()
    image[24:] = np.nan
    scan = make_scan(image=image, pixel_size_nm=None)
    picture = pixels(scan, [make_result(scan, [(8, 8)])])
    zoom = picture.shape[1] // 64
    blue = near(picture, MISSING_DARK, 0) | near(picture, MISSING_LIGHT, 0)
    assert blue[24 * zoom : 48 * zoom].all()
    assert not blue[: 24 * zoom].any()


def test_the_scale_bar_has_the_length_that_it_says(make_scan, make_result):
    scan = make_scan(pixel_size_nm=(0.1, 0.1))  # 6.4 nm wide: a bar of 1 nm, 10 scan pixels
    picture = pixels(scan, [make_result(scan, [])])
    zoom = picture.shape[1] // 64
    row = picture[48 * zoom - 28]
    assert (row.min(axis=-1) == 255).sum() == 10 * zoom
    without = pixels(make_scan(pixel_size_nm=None), [make_result(make_scan(pixel_size_nm=None), [])])
    assert (without[48 * zoom - 28].min(axis=-1) == 255).sum() != 10 * zoom


@pytest.mark.parametrize(
    ("length", "rounded"), [(1, 1), (1.9, 1), (2.1, 2), (4.9, 2), (7, 5), (0.03, 0.02), (730, 500)]
)
def test_round_lengths(length, rounded):
    assert _round_length(length) == pytest.approx(rounded)


def test_any_title_and_warning_can_be_drawn(make_scan, make_result):
    scan = make_scan(warnings=("µ 中文 " * 60,))
    for title in ("", "a" * 500, "Prüfung 中文 \udc80\n.sxm"):
        image = draw_overlay(scan, [make_result(scan)], title)
        assert image.width == 64 * 16


def test_a_scan_of_nothing_can_be_drawn(make_scan, make_result):
    for fill in (np.nan, 3.0):
        scan = make_scan(image=np.full((20, 30), fill, np.float32))
        image = draw_overlay(scan, [make_result(scan, [], quantities={})], "a.sxm")
        assert image.width >= 30
        assert image.height > 20
