import numpy as np
import pytest

from spm_runtime.results import Map
from spm_runtime.results._marks import CLASS_COLOURS, STEP_COLOUR, class_colour
from spm_runtime.results._overlay import ATOM_COLOURS, _of_noise, _round_length, draw_overlay
from spm_runtime.results._panels import MISSING_DARK, MISSING_LIGHT, suited

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


def found(make_result, scan, defects, *, steps=None):
    maps = () if steps is None else (Map("steps", steps),)
    return make_result(scan, task="defects", atoms=None, defects=defects, maps=maps, quantities={})


def extent(picture, colour, height, tolerance=30):
    """First and last row and column of a colour in the first `height` rows."""
    ys, xs = np.nonzero(near(picture[:height], colour, tolerance))
    return ys.min(), xs.min(), ys.max(), xs.max()


@pytest.mark.parametrize(("shape", "zoom"), [((64, 64), 16), ((256, 256), 4), ((2048, 2048), 1)])
def test_a_box_runs_around_its_defect_in_the_colour_of_its_class(make_scan, make_result, make_defects, shape, zoom):
    scan = make_scan(shape, pixel_size_nm=None)
    side = shape[0] / 4
    for kind in (0, 5):
        defects = make_defects([(side, 2 * side)], kind=[kind], names="abcdef", size=(side / 4, side / 2))
        picture = pixels(scan, [found(make_result, scan, defects)])
        top, left, bottom, right = extent(picture, class_colour(kind), shape[0] * zoom, 3)
        for first, last, centre, length in ((top, bottom, side, side / 4), (left, right, 2 * side, side / 2)):
            assert (first + last + 1) / 2 == pytest.approx((centre + 0.5) * zoom, abs=1)
            assert length * zoom < last - first + 1 < length * zoom + 12  # it does not cover what it shows
        ink = near(picture[: shape[0] * zoom], class_colour(kind), 3).sum()
        assert ink > 2 * (bottom - top + right - left)
        assert ink < 0.2 * (bottom - top) * (right - left)


def test_boxes_of_the_smallest_defects_are_seen_and_those_at_the_border_do_no_harm(
    make_scan, make_result, make_defects
):
    scan = make_scan((2048, 2048), pixel_size_nm=None)
    places = [(1000, 1000), (0, 0), (2047, 2047), (-3, 1000), (1000, 2052)]
    picture = pixels(scan, [found(make_result, scan, make_defects(places, kind=[0] * 5, size=(1.0, 1.0)))])
    inside = near(picture[980:1021, 980:1021], class_colour(0), 3)
    assert np.ptp(np.nonzero(inside)[0]) >= 20
    assert near(picture[:20, :20], class_colour(0), 3).any()
    assert near(picture[2028:2048, 2028:2048], class_colour(0), 3).any()


@pytest.mark.parametrize("size", [64, 2048])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_defect_that_the_frame_cuts_gets_its_whole_box(make_scan, make_result, make_defects, size, corner):
    """Of a defect whose centre lies at the frame or beyond, half a box would show where its pixels are."""
    scan = make_scan((size, size), image=np.zeros((size, size), np.float32), pixel_size_nm=None)
    length, side = size // 8, 1024 if size == 64 else 2048
    for beyond in (0.0, 0.1 * length, length):
        centre = [-beyond if end == 0 else size - 1 + beyond for end in corner]
        defects = make_defects([centre], kind=[0], size=(length, length))
        picture = pixels(scan, [found(make_result, scan, defects)])
        top, left, bottom, right = extent(picture, class_colour(0), side, 3)
        for end, first, last in zip(corner, (top, left), (bottom, right), strict=True):
            assert (first, last)[end] == (0, side - 1)[end]
            assert last - first + 1 == pytest.approx(length * side / size, abs=8)
        box = near(picture[top : bottom + 1, left : right + 1], class_colour(0), 3)
        for edge in (box[0], box[-1], box[:, 0], box[:, -1]):
            assert edge.all()


def test_only_what_the_other_direction_lacks_is_dashed_and_the_legend_says_so(make_scan, make_result, make_defects):
    scan = make_scan((64, 64), pixel_size_nm=None)
    pictures = {
        confirmed: pixels(
            scan, [found(make_result, scan, make_defects([(32, 32)], size=(20.0, 20.0), confirmed=confirmed))]
        )
        for confirmed in (-1, 0, 1)
    }
    np.testing.assert_array_equal(pictures[-1], pictures[1])
    ink = {key: near(picture[:1024], class_colour(0), 3) for key, picture in pictures.items()}
    assert extent(pictures[0], class_colour(0), 1024, 3) == extent(pictures[1], class_colour(0), 1024, 3)
    assert 0.4 < ink[0].sum() / ink[1].sum() < 0.75
    assert (pictures[0][1024:] != pictures[1][1024:]).any()


def test_classes_share_no_colour_with_each_other_or_with_atoms():
    colours = [*CLASS_COLOURS, ATOM_COLOURS[0]]
    apart = [np.abs(np.subtract(a, b)).max() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(apart) > 45
    assert class_colour(len(CLASS_COLOURS)) == class_colour(0)


def test_the_legend_shows_every_class_that_was_found_and_no_other(make_scan, make_result, make_defects):
    scan = make_scan((64, 64), pixel_size_nm=None)
    names = tuple(f"class {number} of a long name" for number in range(8))
    few = pixels(scan, [found(make_result, scan, make_defects([(9, 9)] * 2, kind=[1, 1], names=names))])
    many = pixels(scan, [found(make_result, scan, make_defects([(9, 9)] * 8, names=names))])
    assert [near(few[1024:], class_colour(kind), 3).any() for kind in range(8)] == [kind == 1 for kind in range(8)]
    assert all(near(many[1024:], class_colour(kind), 3).any() for kind in range(8))
    assert len(many) > len(few)  # in several rows
    none = pixels(scan, [found(make_result, scan, make_defects([]))])
    assert len(none) < len(few)


@pytest.mark.parametrize(("size", "zoom"), [(64, 16), (256, 4), (2048, 1)])
def test_steps_are_thin_lines_in_their_middle_from_frame_to_frame(make_scan, make_result, make_defects, size, zoom):
    scan = make_scan((size, size), image=np.zeros((size, size), np.float32), pixel_size_nm=None)
    at = size // 3
    steps = np.zeros((size, size), bool)
    steps[:, at - 2 : at + 3] = True
    picture = pixels(scan, [found(make_result, scan, make_defects([]), steps=steps)])[: size * zoom]
    line = near(picture, STEP_COLOUR, 40)
    rows, columns = np.nonzero(line)
    assert np.unique(rows).size == size * zoom
    assert columns.mean() == pytest.approx((at + 0.5) * zoom - 0.5, abs=0.6)
    assert np.ptp(columns) + 1 <= 4


def test_a_slanted_step_is_no_staircase(make_scan, make_result, make_defects):
    scan = make_scan((64, 64), image=np.zeros((64, 64), np.float32), pixel_size_nm=None)
    y, x = np.mgrid[:64, :64]
    steps = np.abs(x - 20 - y / 4) < 1.5
    picture = pixels(scan, [found(make_result, scan, make_defects([]), steps=steps)])[:1024]
    rows, columns = np.nonzero(near(picture, STEP_COLOUR, 60))
    away = columns - (16 * (20 + ((rows + 0.5) / 16 - 0.5) / 4) + 7.5)
    middle = (rows > 100) & (rows < 924)
    assert np.abs(away[middle]).max() < 10  # less than two thirds of a scan pixel


def test_atoms_beside_defects_are_mere_dots(make_scan, make_result, make_defects):
    scan = make_scan((64, 64), pixel_size_nm=None)
    yx = [(8.0, 8.0), (8.0, 16.0), (50.0, 30.0)]
    alone = pixels(scan, [make_result(scan, yx)])
    both = pixels(scan, [found(make_result, scan, make_defects([(40, 50)])), make_result(scan, yx)])
    rings, dots = (near(picture[:1024], RED, 60) for picture in (alone, both))
    assert 0 < dots.sum() < 0.3 * rings.sum()
    for y, x in yx:
        assert dots[round(16 * (y + 0.5)), round(16 * (x + 0.5))]
    assert near(both[1024:], RED, 10).any()
    assert near(both[:1024], class_colour(0), 3).any()
    order = [make_result(scan, yx), found(make_result, scan, make_defects([(40, 50)]))]
    np.testing.assert_array_equal(pixels(scan, order)[:1024], both[:1024])


def test_defects_and_steps_can_be_drawn_on_anything(make_scan, make_result, make_defects):
    for shape in ((1, 1), (16, 1024), (1024, 16), (5000, 12)):
        scan = make_scan(shape, image=np.full(shape, np.nan, np.float32))
        steps = np.ones(shape, bool)
        defects = make_defects([(0, 0), (3, 3)], names=("中文 \udc80\n" * 30,), size=(500.0, 0.0), confirmed=[0, 1])
        assert draw_overlay(scan, [found(make_result, scan, defects, steps=steps)], "a.sxm").width >= 640


def three_panels(picture, scan, zoom, gap):
    width = scan.shape[1] * zoom
    return [picture[: scan.shape[0] * zoom, start : start + width] for start in (0, width + gap, 2 * (width + gap))]


@pytest.mark.parametrize(("shape", "zoom", "unit"), [((64, 64), 8, 1), ((256, 256), 2, 1), ((1024, 1024), 1, 3)])
def test_a_restored_surface_is_shown_before_after_and_where_it_is_known(make_scan, make_restored, shape, zoom, unit):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.cos(2 * np.pi * y / 16) * np.cos(2 * np.pi * x / 16)
    scan = make_scan(shape, image=image.astype(np.float32), pixel_size_nm=None)
    picture = pixels(scan, [make_restored(scan)])
    before, after, certain = three_panels(picture, scan, zoom, 8 * unit)
    assert picture.shape[1] == 3 * shape[1] * zoom + 16 * unit
    inner = np.s_[shape[0] * zoom // 4 : shape[0] * zoom // 2, shape[1] * zoom // 8 :]
    # One scale of heights: half as high is half as much contrast.
    assert np.ptp(before[inner]) > 245
    assert np.ptp(after[inner]) == pytest.approx(128, abs=6)
    half = shape[1] * zoom // 2
    rows = np.s_[shape[0] * zoom // 4 : shape[0] * zoom // 2]
    np.testing.assert_array_equal(certain[rows, : half - zoom], after[rows, : half - zoom])
    assert (certain[rows, half + zoom :, 0] - certain[rows, half + zoom :, 2]).min() > 60  # orange


def test_the_tip_is_shown_in_a_corner_with_its_apex_white(make_scan, make_restored):
    scan = make_scan((128, 128), pixel_size_nm=None)
    zoom = 4
    *_, certain = three_panels(pixels(scan, [make_restored(scan)]), scan, zoom, 8)
    side = round(0.3 * 128 * zoom)
    corner = certain[-side - 10 : -10, -side - 10 : -10]
    assert np.ptp(corner, axis=2).max() == 0  # grey: no tint over it
    assert corner[side // 2, side // 2].min() > 245
    assert corner[side // 2, 4].max() < corner[side // 2, side // 4].max() < 245


def test_defects_beside_a_restored_surface_are_marked_in_the_first_panel_only(
    make_scan, make_result, make_restored, make_defects
):
    scan = make_scan((64, 64), pixel_size_nm=None)
    results = [found(make_result, scan, make_defects([(32, 40)], kind=[5], names="abcdef")), make_restored(scan)]
    panels = three_panels(pixels(scan, results), scan, 8, 8)
    assert [near(panel, class_colour(5), 3).any() for panel in panels] == [True, False, False]


def test_a_restored_surface_can_be_drawn_on_anything(make_scan, make_restored):
    for shape in ((1, 1), (16, 1024), (1024, 16), (5000, 12), (3000, 3000)):
        for fill in (np.nan, 1.0):
            scan = make_scan(shape, image=np.full(shape, fill, np.float32), unit="中文")
            image = draw_overlay(scan, [make_restored(scan, quantities={"certain_share": np.nan})], "a.sxm")
            assert image.width >= 640
            assert max(image.size) <= 4300


def test_a_denoised_image_is_shown_before_after_and_what_was_taken_away(make_scan, make_denoised, make_restored):
    y, x = np.mgrid[:256, :256]
    image = np.cos(2 * np.pi * y / 16) * np.cos(2 * np.pi * x / 16)
    scan = make_scan((256, 256), image=(image + 0.5 * y).astype(np.float32), pixel_size_nm=None)
    result = make_denoised(scan)
    result.maps[0].data[:] = image / 2 + 0.5 * y  # its plane stays
    picture = pixels(scan, [result])
    before, after, taken = three_panels(picture, scan, 2, 8)
    inner = np.s_[128:256, 128:256]
    assert np.ptp(before[inner]) > 245
    assert np.ptp(after[inner]) == pytest.approx(133, abs=8)
    # On a scale of its own.
    assert np.ptp(taken[inner]) > 245
    assert np.abs(taken[inner].astype(int) - before[inner]).mean() < 6
    assert np.mean(taken[inner]) == pytest.approx(127.5, abs=3)
    assert np.ptp(picture[:512], axis=2).max() == 0  # no colour
    both = pixels(scan, [result, make_restored(scan)])
    assert np.ptp(both[:512], axis=2).max() == 0  # the first result has the panels


def test_steps_do_not_hide_what_was_denoised(make_scan, make_denoised):
    y, x = np.mgrid[:256, :256]
    image = np.cos(2 * np.pi * y / 16) * np.cos(2 * np.pi * x / 16) + 20 * (x // 128)
    scan = make_scan((256, 256), image=image.astype(np.float32), pixel_size_nm=None)
    result = make_denoised(scan)
    result.maps[0].data[:] = scan.image
    before, after, taken = three_panels(pixels(scan, [result]), scan, 2, 8)
    for terrace in (np.s_[128:256, 64:192], np.s_[128:256, 320:448]):
        assert np.ptp(before[terrace]) > 120
    np.testing.assert_array_equal(before[64:400], after[64:400])  # between the names and the scale bar
    assert set(np.unique(taken[64:])) <= {127, 128}  # below its name: nothing was taken away


def test_noise_is_told_as_a_length_or_as_a_share(make_scan, make_denoised):
    scan = make_scan((64, 64), unit="V")
    assert _of_noise([make_denoised(scan)]) == ["white noise 12.50% of the relief", "taken away 25.00% of the relief"]
    in_nm = make_denoised(scan, quantities={"noise_before": 0.1, "noise_before_nm": 0.02})
    assert _of_noise([in_nm]) == ["white noise 20 pm rms"]


def test_a_denoised_image_can_be_drawn_on_anything(make_scan, make_denoised):
    for shape in ((1, 1), (16, 1024), (1024, 16), (5000, 12)):
        for fill in (np.nan, 1.0):
            scan = make_scan(shape, image=np.full(shape, fill, np.float32), unit="中文")
            image = draw_overlay(scan, [make_denoised(scan, quantities={"noise_before": np.nan})], "a.sxm")
            assert image.width >= 640
            assert max(image.size) <= 4300


@pytest.mark.parametrize(
    ("height", "unit", "words"),
    [(2e-9, "m", "2 nm"), (0.05, "nm", "50 pm"), (2500.0, "nm", "2.5 µm"), (3.0, "", "3"), (2.0, "V", "2 V")],
)
def test_heights_are_told_in_a_unit_that_suits_them(height, unit, words):
    assert suited(height, unit) == words
