"""A fast simulator of atomic-resolution images: Gaussian columns, their disorder and the microscope's disturbances.

It is not a wave simulation: a column is a Gaussian. It draws a crop of 128×128 pixels in milliseconds, so that a training
never sees the same image twice. Noise is stated by the matched-filter detectability d′ of one full-height column in white noise,
``d′ = height · √(π) · σ_px / σ_noise`` (the sum of a squared Gaussian is π σ²).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.transform import resize

from spm_training.simulate.lattices import ARRANGEMENTS, Sites, nearest_neighbour_distances

__all__ = ["FAMILIES", "NOISE_LEVELS", "Scene", "simulate_columns"]

#: Families of arrangements that `simulate_columns` draws from.
FAMILIES: tuple[str, ...] = tuple(ARRANGEMENTS)

#: Range of d′ by name of the noise level, as the tables report them.
NOISE_LEVELS = {"clear": (20.0, 36.0), "medium": (7.5, 11.0), "low": (3.0, 4.6)}

#: A column lower than this share of the full height may be found or not (light columns beside heavy ones).
REQUIRED_HEIGHT = 0.4

#: Width σ of a column over the spacing at which neighbours merge. At 0.5 the corrugation of a triangular net of Gaussians
#: has fallen to 2 % of their height: 9 · 2πσ²/A · exp(−8π²σ²/3) with A = √3/2, its first Fourier components.
BLURRED_WIDTH = (0.5, 0.85)


@dataclass(frozen=True, eq=False)
class Scene:
    """A simulated image with its truth.

    Parameters
    ----------
    image
        ``(H, W)`` float32 in arbitrary units, as a microscope would save it (not levelled).
    yx_px
        ``(N, 2)`` float64 positions of every column inside the image; none where the columns are too broad to be told apart
        (`BLURRED_WIDTH`).
    required
        ``(N,)`` bool: False where a finder may, but need not, report the column (light, or buried under an adsorbate).
        Training leaves the surroundings of those columns out of the loss; evaluation neither requires nor punishes them.
    sublattice
        ``(N,)`` int32 index of the site in its unit cell.
    spacing_px
        Mean nearest-neighbour distance of the required columns of the undisturbed structure, in pixels.
    width_px
        Gaussian σ of a column in pixels.
    detectability
        d′ of a full-height column in the white noise of the image.
    noise_px
        Standard deviation of the white noise relative to a full-height column.
    family
        Name of the arrangement.
    contrast
        ``stem`` or ``stm``.
    """

    image: NDArray[np.float32]
    yx_px: NDArray[np.float64]
    required: NDArray[np.bool_]
    sublattice: NDArray[np.int32]
    spacing_px: float
    width_px: float
    detectability: float
    noise_px: float
    family: str
    contrast: str

    @property
    def noise(self) -> str:
        """Name of the noise level whose range holds d′, or the nearest one."""
        return min(NOISE_LEVELS, key=lambda name: abs(np.log(np.mean(NOISE_LEVELS[name]) / self.detectability)))


class _Columns(NamedTuple):
    """Columns while a scene grows: positions in pixels, heights, sites."""

    yx: NDArray[np.float64]
    height: NDArray[np.float64]
    site: NDArray[np.int32]

    def keep(self, mask: NDArray[np.bool_]) -> _Columns:
        return _Columns(self.yx[mask], self.height[mask], self.site[mask])


def simulate_columns(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int],
    families: Sequence[str] | None = None,
    spacing_px: tuple[float, float] = (2.5, 36.0),
    detectability: tuple[float, float] = (3.5, 60.0),
) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    rng
        The only source of randomness.
    shape
        ``(H, W)`` in pixels.
    families
        Names out of `FAMILIES`; all when None.
    spacing_px
        Range of the spacing. Its logarithm is drawn from a beta(2, 2) distribution: most often near the geometric middle,
        where a pipeline brings an image before it looks for atoms, and less often at the ends.
    detectability
        Range of d′, drawn log-uniformly.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        If a family is unknown.
    """
    names = list(families) if families is not None else list(FAMILIES)
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        raise ValueError(f"unknown families {unknown}; expected some of {list(FAMILIES)}")
    family = names[int(rng.integers(len(names)))]
    low, high = np.log(spacing_px)
    spacing = float(np.exp(low + (high - low) * rng.beta(2, 2)))
    d_prime = float(np.exp(rng.uniform(*np.log(detectability))))
    # One image in six was sampled coarsely and enlarged, as the pipeline does with narrow spacings.
    factor = float(rng.uniform(1.5, 4.0)) if rng.random() < 1 / 6 else 1.0
    factor = max(1.0, min(factor, spacing / 2.3))
    if factor < 1.2:
        return _simulate(rng, family, shape, spacing, d_prime)
    coarse_shape = (int(np.ceil(shape[0] / factor)) + 2, int(np.ceil(shape[1] / factor)) + 2)
    return _enlarge(_simulate(rng, family, coarse_shape, spacing / factor, d_prime), shape, spacing)


def _simulate(rng: np.random.Generator, family: str, shape: tuple[int, int], spacing: float, d_prime: float) -> Scene:
    """Draw a scene of a given family, spacing in pixels and detectability."""
    stm = family == "si111-7x7" or (family not in ("dumbbell", "dichalcogenide") and rng.random() < 0.4)
    # One STM image in eight was taken with a tip too blunt for its atoms: there is a pattern, and nothing to be found.
    blurred = stm and family != "isolated" and rng.random() < 1 / 8
    broad = rng.uniform(*BLURRED_WIDTH) if blurred else rng.uniform(0.22, 0.42)
    narrow = rng.uniform(0.13, 0.28)
    if family == "isolated":  # nothing but their size tells the scale of single atoms: tie it to the spacing
        broad = narrow = rng.uniform(0.19, 0.23)
    # A pixel and the microscope's resolution bound the width from below.
    width = max(spacing * (broad if stm else narrow), 0.7)

    columns, holes = _place(rng, family, shape, spacing)
    columns, vacancies = _disorder(rng, columns, shape, spacing)
    height_field, terrace = _terraces(rng, shape, spacing) if stm and rng.random() < 0.35 else (None, None)
    if terrace is not None:
        columns = _reregister(rng, columns, terrace, spacing)

    image = _render(columns.yx, columns.height, width, shape)
    depth = rng.uniform(0.0, 0.9) if stm else 0.0
    if depth and len(vacancies):
        image -= _render(vacancies, np.full(len(vacancies), depth), spacing * 0.45, shape)
    if len(holes):
        image -= _render(holes, np.full(len(holes), rng.uniform(0.2, 0.9)), spacing * rng.uniform(0.35, 0.6), shape)
    if height_field is not None:
        image += height_field
    cover = _adsorbates(rng, shape, spacing, tall=stm)
    image += cover
    image += _background(rng, shape, spacing)
    noise = float(np.sqrt(np.pi) * width / d_prime)
    image = _disturb(rng, image, noise, stm=stm, spacing=spacing)

    in_frame = np.all((columns.yx >= -0.5) & (columns.yx < np.asarray(shape) - 0.5), axis=1)
    columns = columns.keep(in_frame & (not blurred))
    buried = ndimage.map_coordinates(cover, columns.yx.T, order=1, mode="nearest") > 0.25
    return Scene(
        image=_arbitrary_units(rng, image),
        yx_px=columns.yx,
        required=(columns.height >= REQUIRED_HEIGHT) & ~buried,
        sublattice=columns.site,
        spacing_px=spacing,
        width_px=width,
        detectability=d_prime,
        noise_px=noise,
        family=family,
        contrast="stm" if stm else "stem",
    )


def _enlarge(scene: Scene, shape: tuple[int, int], spacing: float) -> Scene:
    """Interpolate a coarse scene to a wider spacing and cut it to shape."""
    factor = spacing / scene.spacing_px
    size = tuple(round(n * factor) for n in scene.image.shape)
    image = resize(  # type: ignore[no-untyped-call]
        scene.image, size, order=3, mode="reflect", anti_aliasing=False, preserve_range=True, clip=False
    )
    true_factor = np.asarray(size) / np.asarray(scene.image.shape)
    yx = (scene.yx_px + 0.5) * true_factor - 0.5
    inside = np.all((yx >= -0.5) & (yx < np.asarray(shape) - 0.5), axis=1)
    return replace(
        scene,
        image=np.ascontiguousarray(image[: shape[0], : shape[1]], dtype=np.float32),
        yx_px=yx[inside],
        required=scene.required[inside],
        sublattice=scene.sublattice[inside],
        spacing_px=spacing,
        width_px=scene.width_px * factor,
    )


def _place(
    rng: np.random.Generator, family: str, shape: tuple[int, int], spacing: float
) -> tuple[_Columns, NDArray[np.float64]]:
    """Cut the structure: random origin, rotation, a little shear, sometimes two grains."""
    radius = (np.hypot(*shape) / 2) / spacing + 6.0
    sites = ARRANGEMENTS[family](rng, radius)
    heavy = sites.height >= REQUIRED_HEIGHT
    central = np.hypot(*sites.yx.T) <= max(radius - 3.0, radius / 2)
    distance = nearest_neighbour_distances(sites.yx[heavy])[central[heavy]]
    unit = float(np.mean(distance)) if len(distance) and np.isfinite(distance).all() else 1.0
    if family == "isolated":
        unit = 1.0  # the spacing of isolated atoms is their size: the nearest distance that was allowed

    def put(yx: NDArray[np.float64], angle: float, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.asarray((yx / unit * spacing) @ turn.T @ shear.T + shift)

    shear = np.eye(2) + rng.uniform(-0.04, 0.04, (2, 2))
    centre = (np.asarray(shape) - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    shift = centre + rng.uniform(-3, 3, 2) * spacing
    columns = _Columns(put(sites.yx, angle, shift), sites.height.copy(), sites.sublattice)
    holes = put(sites.holes, angle, shift)
    if family != "isolated" and rng.random() < 0.12:
        columns, holes = _second_grain(rng, sites, columns, holes, put, shape=shape, spacing=spacing)
    return columns, holes


def _second_grain(
    rng: np.random.Generator,
    sites: Sites,
    columns: _Columns,
    holes: NDArray[np.float64],
    put: Callable[[NDArray[np.float64], float, NDArray[np.float64]], NDArray[np.float64]],
    *,
    shape: tuple[int, int],
    spacing: float,
) -> tuple[_Columns, NDArray[np.float64]]:
    """Replace one side of a straight line by the same structure, turned."""
    centre = (np.asarray(shape) - 1) / 2
    normal = rng.normal(size=2)
    normal /= np.linalg.norm(normal)
    offset = rng.uniform(-0.3, 0.3) * min(shape)
    angle = rng.uniform(0, 2 * np.pi)
    shift = centre + rng.uniform(-3, 3, 2) * spacing
    second = put(sites.yx, angle, shift)

    def beyond(yx: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((yx - centre) @ normal - offset)

    first = columns.keep(beyond(columns.yx) < 0)
    inside = beyond(second) >= 0
    if len(first.yx) and inside.any():
        inside &= cKDTree(first.yx).query(second)[0] > 0.75 * spacing
    joined = _Columns(
        np.concatenate([first.yx, second[inside]]),
        np.concatenate([first.height, sites.height[inside]]),
        np.concatenate([first.site, sites.sublattice[inside]]),
    )
    dark = put(sites.holes, angle, shift)
    return joined, np.concatenate([holes[beyond(holes) < 0], dark[beyond(dark) >= 0]])


def _disorder(
    rng: np.random.Generator, columns: _Columns, shape: tuple[int, int], spacing: float
) -> tuple[_Columns, NDArray[np.float64]]:
    """Vacancies, dopants, jitter, and sometimes an edge or voids; returns the columns and the empty places."""
    count = len(columns.yx)
    height = columns.height * (1 + rng.uniform(0.02, 0.12) * rng.normal(size=count))
    if rng.random() < 0.4:
        dopant = rng.random(count) < rng.uniform(0, 0.06)
        height = np.where(dopant, height * rng.uniform(0.55, 2.0), height)
    yx = columns.yx + rng.uniform(0.0, 0.05) * spacing * rng.normal(size=(count, 2))
    empty = rng.random(count) < (rng.uniform(0, 0.1) if rng.random() < 0.6 else 0.0)
    outside = np.zeros(count, bool)
    if rng.random() < 0.25:  # a crystal that ends, or one with voids
        field = _smooth_field(rng, shape, rng.uniform(2, 8) * spacing)
        level = np.quantile(field, rng.uniform(0.1, 0.6))
        outside = ndimage.map_coordinates(field, columns.yx.T, order=1, mode="nearest") < level
    changed = _Columns(yx, np.maximum(height, 0.02), columns.site)
    return changed.keep(~(empty | outside)), columns.yx[empty & ~outside]


def _terraces(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Heights of one or two terraces behind wavy step edges, in column heights, and the terrace of each pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, 2 * np.pi)
    along = -np.sin(angle) * x + np.cos(angle) * y
    across = np.cos(angle) * (x - shape[1] / 2) + np.sin(angle) * (y - shape[0] / 2)
    phase = rng.uniform(0, 2 * np.pi, 3)
    wave = np.zeros(shape)
    for shift in phase:
        height, length = rng.uniform(0, 1.5) * spacing, rng.uniform(5, 30) * spacing
        wave += height * np.sin(2 * np.pi * along / length + shift)
    edges = rng.uniform(-0.45, 0.45, int(rng.integers(1, 3))) * min(shape)
    softness = rng.uniform(0.15, 0.6) * spacing
    field = np.zeros(shape)
    terrace = np.zeros(shape, np.int32)
    step = rng.choice([-1, 1]) * 10 ** rng.uniform(0, 1.2)
    for edge in edges:
        field += step * 0.5 * (1 + np.tanh((across + wave - edge) / softness))
        terrace += (across + wave > edge).astype(np.int32)
    return field, terrace


def _reregister(rng: np.random.Generator, columns: _Columns, terrace: NDArray[np.int32], spacing: float) -> _Columns:
    """Shift the lattice from terrace to terrace and take away what stands on an edge."""
    inside = np.clip(np.rint(columns.yx).astype(int), 0, np.asarray(terrace.shape) - 1)
    level = terrace[inside[:, 0], inside[:, 1]]
    shift = rng.uniform(-0.5, 0.5, (int(terrace.max()) + 1, 2)) * spacing
    edge = ndimage.morphological_gradient(terrace, size=3) > 0
    distance = ndimage.distance_transform_edt(~edge) if edge.any() else np.full(terrace.shape, np.inf)
    moved = columns.yx + shift[level]
    place = np.clip(np.rint(moved).astype(int), 0, np.asarray(terrace.shape) - 1)
    clear = distance[place[:, 0], place[:, 1]] > 0.45 * spacing
    return _Columns(moved, columns.height, columns.site).keep(clear)


def _render(
    yx: NDArray[np.float64], height: NDArray[np.float64], sigma: float, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Sum of Gaussians, each cut off at 4 σ."""
    reach = int(np.ceil(4 * sigma))
    near = np.all((yx > -reach - 1) & (yx < np.asarray(shape) + reach), axis=1)
    yx, height = yx[near], height[near]
    base = np.rint(yx).astype(np.int64)
    offsets = np.arange(-reach, reach + 1)
    rows = base[:, :1] + offsets
    cols = base[:, 1:] + offsets
    gy = np.exp(-0.5 * ((rows - yx[:, :1]) / sigma) ** 2) * ((rows >= 0) & (rows < shape[0]))
    gx = np.exp(-0.5 * ((cols - yx[:, 1:]) / sigma) ** 2) * ((cols >= 0) & (cols < shape[1]))
    flat = np.clip(rows, 0, shape[0] - 1)[:, :, None] * shape[1] + np.clip(cols, 0, shape[1] - 1)[:, None, :]
    value = height[:, None, None] * gy[:, :, None] * gx[:, None, :]
    # Without any column bincount forgets that weights are floats.
    return np.bincount(flat.ravel(), value.ravel(), shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _smooth_field(rng: np.random.Generator, shape: tuple[int, int], length: float) -> NDArray[np.float64]:
    """Smooth random field of unit standard deviation with a correlation length in pixels."""
    step = max(int(length / 2), 1)
    coarse = rng.normal(size=(shape[0] // step + 4, shape[1] // step + 4))
    coarse = ndimage.gaussian_filter(coarse, length / step / 2)
    y = np.linspace(1, coarse.shape[0] - 2, shape[0])
    x = np.linspace(1, coarse.shape[1] - 2, shape[1])
    field = ndimage.map_coordinates(coarse, np.meshgrid(y, x, indexing="ij"), order=1)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9))


def _adsorbates(rng: np.random.Generator, shape: tuple[int, int], spacing: float, *, tall: bool) -> NDArray[np.float64]:
    """Flat-topped bright islands of contamination, larger than a column, with a texture of their own."""
    cover = np.zeros(shape)
    if rng.random() > 0.3:
        return cover
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(int(rng.integers(1, 4))):
        centre = rng.uniform(-0.1, 1.1, 2) * shape
        radius = rng.uniform(1.0, 4.0) * spacing
        wobble = 1 + 0.2 * np.sin(
            int(rng.integers(2, 5)) * np.arctan2(y - centre[0], x - centre[1]) + rng.uniform(0, 6)
        )
        r = np.hypot(y - centre[0], x - centre[1]) / (radius * wobble)
        blob = 0.5 * (1 - np.tanh((r - 1) * radius / (rng.uniform(0.3, 0.8) * spacing)))
        cover = np.maximum(cover, rng.uniform(0.8, 6.0 if tall else 3.0) * blob)
    texture = _smooth_field(rng, shape, rng.uniform(0.6, 2.0) * spacing)
    return np.asarray(cover * np.maximum(1 + rng.uniform(0, 0.15) * texture, 0))


def _background(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> NDArray[np.float64]:
    """A tilted plane and slow unevenness."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    slope = rng.normal(size=2) * 10 ** rng.uniform(-1, 1)
    plane = slope[0] * y + slope[1] * x
    return np.asarray(plane + 10 ** rng.uniform(-1.5, 0.3) * _smooth_field(rng, shape, rng.uniform(4, 15) * spacing))


def _disturb(
    rng: np.random.Generator, image: NDArray[np.float64], noise: float, *, stm: bool, spacing: float
) -> NDArray[np.float64]:
    """What the microscope adds: line jitter, white and shot noise, line offsets, scars."""
    rows = image.shape[0]
    if rng.random() < 0.5:
        jitter = rng.normal(size=(rows,)) * (rng.uniform(0.0, 0.06) * spacing)
        columns = np.arange(image.shape[1], dtype=np.float64)
        image = np.stack([np.interp(columns + jitter[row], columns, image[row]) for row in range(rows)])
    white = rng.normal(size=image.shape)
    if not stm and rng.random() < 0.5:  # shot noise grows with the signal; full strength on a column
        level = (image - image.min()) / max(float(np.ptp(image)), 1e-9)
        white *= np.sqrt(0.35 + 0.65 * level)
    if rng.random() < 0.25:  # a detector or amplifier slower than the pixel clock
        white = ndimage.gaussian_filter1d(white, rng.uniform(0.3, 0.9), axis=1)
    image = image + noise * white
    if stm or rng.random() < 0.2:
        image = image + rng.normal(size=(rows, 1)) * 10 ** rng.uniform(-2, -0.5)
    if stm and rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 5))):
            row, start = int(rng.integers(rows)), int(rng.integers(image.shape[1]))
            image[row, start : start + int(rng.integers(5, 60))] += rng.normal() * 2
    return image


def _arbitrary_units(rng: np.random.Generator, image: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gain and offset of an unknown instrument."""
    return (image * 10 ** rng.uniform(-1, 2) + rng.normal() * 10).astype(np.float32)
