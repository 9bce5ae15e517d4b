"""Gwyddion's own tip functions, from its shared library, on NumPy arrays.

The library (GPL, Debian's ``libgwyddion2-0``) is no dependency: it is used where somebody has installed it, and `why_missing`
says what to do where nobody has.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError

__all__ = ["Gwyddion", "gwyddion", "why_missing"]

Heights: TypeAlias = NDArray[np.float64]

_REMEDY = "libgwyprocess2 is not installed. Install it: apt install libgwyddion2-0"


class Gwyddion:
    """The few functions of libgwyprocess2 that blind estimation and restoration need.

    Heights are in any unit, all arrays two-dimensional; the functions round heights to ten thousand steps of their range. A tip
    that `estimate` gives is what a sharp spike would look like in the image; the tip that the others take is the tip itself, seen
    from its apex, which is the former turned by 180°.

    Raises
    ------
    OSError
        If the library does not load.
    """

    def __init__(self) -> None:
        ctypes.CDLL("libgwyddion2.so.0", mode=ctypes.RTLD_GLOBAL)  # libgwyprocess2 does not name it as needed
        self._process = ctypes.CDLL("libgwyprocess2.so.0")
        self._objects = ctypes.CDLL("libgobject-2.0.so.0")
        pointer, number, whole = ctypes.c_void_p, ctypes.c_double, ctypes.c_int
        self._process.gwy_process_type_init.restype = None
        self._process.gwy_process_type_init()
        self._declare("gwy_data_field_new", pointer, [whole, whole, number, number, whole])
        self._declare("gwy_data_field_get_data", ctypes.POINTER(number), [pointer])
        counter = ctypes.POINTER(whole)
        for name in ("gwy_tip_estimate_partial", "gwy_tip_estimate_full"):
            self._declare(name, pointer, [pointer, pointer, number, whole, counter, pointer, pointer])
        for name in ("gwy_tip_dilation", "gwy_tip_erosion", "gwy_tip_cmap"):
            self._declare(name, pointer, [pointer] * 5)
        self._objects.g_object_unref.restype = None
        self._objects.g_object_unref.argtypes = [pointer]

    def estimate(
        self, image: NDArray[np.floating], shape: tuple[int, int], *, threshold: float, full: bool, use_edges: bool
    ) -> Heights:
        """Blind estimation: ``gwy_tip_estimate_full`` or ``gwy_tip_estimate_partial``.

        Parameters
        ----------
        image
            Heights, all finite.
        shape
            Of the tip in pixels.
        threshold
            Height by which the image may contradict the tip, in the unit of the image.
        full
            Ask every pixel, or the maxima only.
        use_edges
            Ask pixels near the border too.

        Returns
        -------
        The tip, its highest pixel 0.
        """
        name = "gwy_tip_estimate_full" if full else "gwy_tip_estimate_partial"
        tip, surface = self._field(np.zeros(shape)), self._field(image)
        getattr(self._process, name)(tip, surface, threshold, use_edges, ctypes.byref(ctypes.c_int()), None, None)
        heights = self._heights(tip, shape).copy()
        self._drop(tip, surface)
        return np.asarray(heights - heights.max())

    def dilation(self, surface: NDArray[np.floating], tip: NDArray[np.floating]) -> Heights:
        """``gwy_tip_dilation``: the image of a surface."""
        return self._morphology("gwy_tip_dilation", surface, tip)

    def erosion(self, image: NDArray[np.floating], tip: NDArray[np.floating]) -> Heights:
        """``gwy_tip_erosion``: the surface of an image."""
        return self._morphology("gwy_tip_erosion", image, tip)

    def certainty(self, image: NDArray[np.floating], tip: NDArray[np.floating]) -> NDArray[np.bool_]:
        """``gwy_tip_cmap``: where the tip touched the surface in one place alone."""
        return self._morphology("gwy_tip_cmap", image, tip) > 0

    def _morphology(self, name: str, image: NDArray[np.floating], tip: NDArray[np.floating]) -> Heights:
        fields = [self._field(heights) for heights in (tip, image, np.zeros(image.shape))]
        getattr(self._process, name)(*fields, None, None)
        result = self._heights(fields[2], image.shape).copy()
        self._drop(*fields)
        return result

    def _declare(self, name: str, result: Any, arguments: list[Any]) -> None:
        function = getattr(self._process, name)
        function.restype, function.argtypes = result, arguments

    def _field(self, heights: NDArray[np.floating]) -> Any:
        rows, columns = heights.shape
        field = self._process.gwy_data_field_new(columns, rows, float(columns), float(rows), 1)
        self._heights(field, heights.shape)[:] = heights
        return field

    def _heights(self, field: Any, shape: tuple[int, ...]) -> Heights:
        return np.ctypeslib.as_array(self._process.gwy_data_field_get_data(field), shape)

    def _drop(self, *fields: Any) -> None:
        for field in fields:
            self._objects.g_object_unref(field)


def why_missing() -> str | None:
    """Why Gwyddion cannot run here and what to do about it; None where it can."""
    return _REMEDY if ctypes.util.find_library("gwyprocess2") is None else None


@functools.cache
def gwyddion() -> Gwyddion:
    """The library, loaded once.

    Raises
    ------
    ParameterError
        If it is not installed, or does not load.
    """
    if (missing := why_missing()) is not None:
        raise ParameterError(f"the peer needs Gwyddion: {missing}")
    try:
        return Gwyddion()
    except OSError as error:
        raise ParameterError(f"the peer needs Gwyddion, and its library does not load: {error}. {_REMEDY}") from error
