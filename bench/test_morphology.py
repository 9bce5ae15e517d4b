"""Tip kernels beside SciPy's grey morphology and Gwyddion's blind estimation, on the same input in the same process.

Where the two compute the same thing, that is checked, too. Rules of measuring: README.md.
"""

import ctypes
import ctypes.util

import numpy as np
import pytest
from scipy import ndimage

from spm_kernels import certainty_map, dilate, erode, estimate_tip, warm


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


@pytest.fixture(scope="module")
def tip():
    """A parabola of 33²."""
    v = np.arange(-16, 17)
    return (-(v[:, None] ** 2 + v**2) / 30).astype(np.float32)


@pytest.fixture(scope="module")
def surface():
    """512² of hills a few tip radii wide."""
    rough = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((512, 512)), 3)
    return (rough / rough.std()).astype(np.float32)


# --- dilate, erode, certainty_map: 512², tip 33² ------------------------------------------------------------------


def dilate_by_scipy(surface, tip):
    return ndimage.grey_dilation(surface, structure=tip, mode="constant", cval=-np.inf)


def test_dilate_kernel(benchmark, surface, tip):
    benchmark.group = "dilate 512x512 tip 33x33"
    image = benchmark(dilate, surface, tip)
    np.testing.assert_array_equal(image, dilate_by_scipy(surface, tip))


def test_dilate_two_threads_kernel(benchmark, surface, tip):
    benchmark.group = "dilate 512x512 tip 33x33"
    benchmark(dilate, surface, tip, threads=2)


def test_dilate_reference(benchmark, surface, tip):
    """scipy.ndimage.grey_dilation."""
    benchmark.group = "dilate 512x512 tip 33x33"
    benchmark.pedantic(dilate_by_scipy, (surface, tip), rounds=3)


def test_erode_kernel(benchmark, surface, tip):
    benchmark.group = "erode 512x512 tip 33x33"
    benchmark(erode, dilate(surface, tip), tip)


def test_erode_reference(benchmark, surface, tip):
    """scipy.ndimage.grey_erosion."""
    benchmark.group = "erode 512x512 tip 33x33"
    image = dilate(surface, tip)
    options = {"structure": tip, "mode": "constant", "cval": np.inf}
    benchmark.pedantic(ndimage.grey_erosion, (image,), options, rounds=3)


def certainty_by_numpy(image, tip):
    """A count over the whole image for every pixel of the tip, then the places of those that touch once."""
    (height, width), (rows, columns) = image.shape, tip.shape
    surface = erode(image, tip)
    inner = image[rows // 2 : height - rows // 2, columns // 2 : width - columns // 2]
    touches, place = np.zeros(inner.shape, int), np.zeros(inner.shape, int)
    for number, drop in enumerate(tip[::-1, ::-1].ravel()):
        j, i = divmod(number, columns)
        rests = inner - drop <= surface[j : j + inner.shape[0], i : i + inner.shape[1]]
        touches += rests
        place[rests] = number
    y, x = np.nonzero(touches == 1)
    certain = np.zeros(image.shape, bool)
    certain[y + place[y, x] // columns, x + place[y, x] % columns] = True
    return certain


def test_certainty_map_kernel(benchmark, surface, tip):
    benchmark.group = "certainty_map 512x512 tip 33x33"
    image = dilate(surface, tip)
    np.testing.assert_array_equal(benchmark(certainty_map, image, tip), certainty_by_numpy(image, tip))


def test_certainty_map_reference(benchmark, surface, tip):
    """NumPy: the whole image for one pixel of the tip after the other."""
    benchmark.group = "certainty_map 512x512 tip 33x33"
    benchmark.pedantic(certainty_by_numpy, (dilate(surface, tip), tip), rounds=3)


# --- estimate_tip: 256², tip 17² ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_image(surface, tip):
    """Whole heights from 0 to 10 000, Gwyddion's own steps, so that both can agree to the last one."""
    image = dilate(surface, tip)[:256, :256]
    return np.round((image - image.min()) / np.ptp(image) * 10_000).astype(np.float32)


@pytest.fixture(scope="module")
def estimate_by_gwyddion():
    if ctypes.util.find_library("gwyprocess2") is None:
        pytest.skip("libgwyprocess2 is not installed (Debian: libgwyddion2-0)")
    ctypes.CDLL("libgwyddion2.so.0", mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL("libgwyprocess2.so.0")
    pointer, number, whole = ctypes.c_void_p, ctypes.c_double, ctypes.c_int
    library.gwy_process_type_init()
    library.gwy_data_field_new.restype, library.gwy_data_field_new.argtypes = (
        pointer,
        [whole, whole, number, number, whole],
    )
    library.gwy_data_field_get_data.restype = ctypes.POINTER(number)
    library.gwy_data_field_get_data.argtypes = [pointer]

    def field(heights):
        made = library.gwy_data_field_new(*heights.shape, *map(float, heights.shape), 1)
        np.ctypeslib.as_array(library.gwy_data_field_get_data(made), heights.shape)[:] = heights
        return made

    def estimate(image, side, threshold, full):
        function = library.gwy_tip_estimate_full if full else library.gwy_tip_estimate_partial
        function.restype = pointer
        function.argtypes = [pointer, pointer, number, whole, ctypes.POINTER(whole), pointer, pointer]
        tip = field(np.zeros((side, side)))
        function(tip, field(image), threshold, False, ctypes.byref(whole()), None, None)
        heights = np.ctypeslib.as_array(library.gwy_data_field_get_data(tip), (side, side))
        return heights - heights.max()

    return estimate


@pytest.mark.parametrize("full", [False, True], ids=["partial", "full"])
def test_estimate_tip_kernel(benchmark, whole_image, estimate_by_gwyddion, full):
    benchmark.group = f"estimate_tip {'full' if full else 'partial'} 256x256 tip 17x17"
    options = {"threshold": 100.0, "full": full}
    tip = benchmark(estimate_tip, whole_image, np.zeros((17, 17), np.float32), **options)
    np.testing.assert_array_equal(tip, estimate_by_gwyddion(whole_image, 17, 100.0, full))


@pytest.mark.parametrize("full", [False, True], ids=["partial", "full"])
def test_estimate_tip_reference(benchmark, whole_image, estimate_by_gwyddion, full):
    """gwy_tip_estimate_partial and gwy_tip_estimate_full."""
    benchmark.group = f"estimate_tip {'full' if full else 'partial'} 256x256 tip 17x17"
    benchmark.pedantic(estimate_by_gwyddion, (whole_image, 17, 100.0, full), rounds=3)
