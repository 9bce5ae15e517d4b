"""Compiled cores of `spm_kernels.refine`: Levenberg–Marquardt fits of single columns.

The model in a disc around a column is ``A·exp(−((y − y₀)² + (x − x₀)²) / 2σ²) + B``. Two of its five parameters, A and
B, are linear: for any ``(y₀, x₀, ln σ)`` the best ones follow from a 2 × 2 system. The search is over the other three
alone (variable projection, Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413); their normal matrix is the Schur
complement of that of all five, so its inverse is their covariance with amplitude and background free.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spm_kernels._jit import kernel

Pixels: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Scratch: TypeAlias = tuple[Floats, Floats, Floats]

#: What a row of the table of fits holds; one row per column of atoms. ``NOISE`` is the residual variance, ``PRECISION``
#: what the data say about ln σ (inverse variance), ``PULL`` the same for the common width. NaN where ``CONVERGED`` is 0.
Y, X, LOG_SIGMA, AMPLITUDE, BACKGROUND, STD, NOISE, PRECISION, PULL, CONVERGED = range(10)
COLUMNS = 10

#: Parameters of the model: position, width, amplitude, background.
PARAMETERS = 5

#: A fit has converged when a step is below this part of σ, and below ten times as much in ln σ. Steps shrink by a factor
#: of ten or more each at that stage, so what remains is far below the noise.
STEP = 1e-4

MAX_STEPS = 50

#: Range of σ that is believed: below, one pixel holds the whole peak; above, the disc sees only the top of a paraboloid.
MIN_SIGMA_PX = 0.25
MAX_SIGMA_RADII = 3.0


@kernel()
def gather(
    image: Pixels, usable: Mask, y: float, x: float, radius: float, value: Floats, row: Ints, column: Ints
) -> tuple[int, int, int]:
    """List the usable pixels of a disc: how many, and the first row and column, which the other ones count from."""
    height, width = image.shape
    top, bottom = max(math.ceil(y - radius), 0), min(math.floor(y + radius), height - 1)
    left, right = max(math.ceil(x - radius), 0), min(math.floor(x + radius), width - 1)
    n = 0
    for v in range(top, bottom + 1):
        for u in range(left, right + 1):
            if usable[v, u] and (v - y) ** 2 + (u - x) ** 2 <= radius * radius:
                value[n], row[n], column[n] = image[v, u], v - top, u - left
                n += 1
    return n, top, left


@kernel()
def profile(centre: float, sigma: float, out: NDArray[np.floating]) -> None:
    """One factor of a Gaussian at the pixels 0, 1, 2 …, from the centre outwards.

    Neighbouring values have a ratio that itself changes by a constant factor: three exponentials for the whole profile.
    """
    middle = min(max(round(centre), 0), len(out) - 1)
    distance, curve = middle - centre, math.exp(-1.0 / sigma**2)
    top = math.exp(-0.5 * (distance / sigma) ** 2)
    value, ratio = top, math.exp(-(distance + 0.5) / sigma**2)
    for i in range(middle, len(out)):
        out[i] = value
        value *= ratio
        ratio *= curve
    value, ratio = top, math.exp((distance - 0.5) / sigma**2)
    for i in range(middle, -1, -1):
        out[i] = value
        value *= ratio
        ratio *= curve


# Sums in any order, products fused: vector code. NaN and infinity keep their meaning.
@kernel(fastmath={"reassoc", "contract"})
def _sums(
    value: Floats, row: Ints, column: Ints, n: int, y: float, x: float, along_y: Floats, along_x: Floats, out: Floats
) -> None:
    """Inner products of g, g·dy, g·dx and g·r² with each other, with 1 and with the pixels."""
    s_g = s_v = s_gg = s_gv = 0.0
    y_1 = y_g = y_v = y_y = x_1 = x_g = x_v = x_x = y_x = 0.0
    r_1 = r_g = r_v = r_y = r_x = r_r = 0.0
    for k in range(n):
        v = value[k]
        g = along_y[row[k]] * along_x[column[k]]
        dy, dx = row[k] - y, column[k] - x
        gy, gx, gr = g * dy, g * dx, g * (dy * dy + dx * dx)
        s_g += g
        s_v += v
        s_gg += g * g
        s_gv += g * v
        y_1 += gy
        y_g += gy * g
        y_v += gy * v
        y_y += gy * gy
        x_1 += gx
        x_g += gx * g
        x_v += gx * v
        x_x += gx * gx
        y_x += gy * gx
        r_1 += gr
        r_g += gr * g
        r_v += gr * v
        r_y += gr * gy
        r_x += gr * gx
        r_r += gr * gr
    out[0], out[1], out[2], out[3] = s_g, s_v, s_gg, s_gv
    out[4], out[5], out[6] = y_1, y_g, y_v
    out[7], out[8], out[9] = x_1, x_g, x_v
    out[10], out[11], out[12] = r_1, r_g, r_v
    out[13], out[14], out[15], out[16], out[17], out[18] = y_y, y_x, x_x, r_y, r_x, r_r


@kernel()
def _evaluate(
    value: Floats,
    row: Ints,
    column: Ints,
    n: int,
    at: tuple[float, float, float],
    prior: tuple[float, float],
    scratch: Scratch,
    matrix: Floats,
    gradient: Floats,
) -> tuple[float, float, float]:
    """Best amplitude and background at ``at`` = (y, x, ln σ), with the normal equations of a step from there.

    The squared pixels add up to n. ``prior`` is the expected ln σ and its weight. Fills the 3 × 3 ``matrix`` and the
    ``gradient`` (downhill). Gives cost, amplitude, background; the cost is infinite where the Gaussian is as flat as
    the background.
    """
    y, x, log_sigma = at
    sigma = math.exp(log_sigma)
    along_y, along_x, s = scratch
    profile(y, sigma, along_y)
    profile(x, sigma, along_x)
    _sums(value, row, column, n, y, x, along_y, along_x, s)
    determinant = s[2] * n - s[0] * s[0]
    if not determinant > 1e-10 * s[2] * n:
        return math.inf, 0.0, 0.0
    amplitude = (n * s[3] - s[0] * s[1]) / determinant
    background = (s[2] * s[1] - s[0] * s[3]) / determinant
    cost = max(n - amplitude * s[3] - background * s[1], 0.0)
    slope = amplitude / (sigma * sigma)  # derivatives of the model: slope · g·dy, slope · g·dx, slope · g·r²
    matrix[0, 0], matrix[1, 1], matrix[2, 2] = s[13], s[15], s[18]
    matrix[1, 0], matrix[2, 0], matrix[2, 1] = s[14], s[16], s[17]
    for i in range(3):
        one, g, v = s[4 + 3 * i], s[5 + 3 * i], s[6 + 3 * i]
        gradient[i] = slope * (v - amplitude * g - background * one)
        a, b = (n * g - s[0] * one) / determinant, (s[2] * one - s[0] * g) / determinant
        for j in range(i, 3):
            matrix[j, i] = slope * slope * (matrix[j, i] - a * s[5 + 3 * j] - b * s[4 + 3 * j])
    expected, weight = prior
    matrix[2, 2] += weight
    gradient[2] += weight * (expected - log_sigma)
    return cost + weight * (expected - log_sigma) ** 2, amplitude, background


@kernel()
def _solve(matrix: Floats, damping: float, right: Floats, out: Floats) -> bool:
    """Solve the damped symmetric 3 × 3 system by Cholesky; False where it is not positive definite."""
    a = math.sqrt(max(matrix[0, 0] * (1.0 + damping), 0.0))
    if not a > 0.0:
        return False
    b, c = matrix[1, 0] / a, matrix[2, 0] / a
    d = matrix[1, 1] * (1.0 + damping) - b * b
    if not d > 1e-12 * matrix[1, 1]:
        return False
    d = math.sqrt(d)
    e = (matrix[2, 1] - b * c) / d
    f = matrix[2, 2] * (1.0 + damping) - c * c - e * e
    if not f > 1e-12 * matrix[2, 2]:
        return False
    f = math.sqrt(f)
    p = right[0] / a
    q = (right[1] - b * p) / d
    r = (right[2] - c * p - e * q) / f
    out[2] = r / f
    out[1] = (q - e * out[2]) / d
    out[0] = (p - b * out[1] - c * out[2]) / a
    return True


@kernel()
def _search(
    value: Floats,
    row: Ints,
    column: Ints,
    n: int,
    at: tuple[float, float, float],
    prior: tuple[float, float],
    radius: float,
    scratch: Scratch,
) -> tuple[bool, tuple[float, float, float], tuple[float, float, float], Floats]:
    """Levenberg–Marquardt from ``at`` = (y, x, ln σ), inside the disc and the range of σ.

    Gives whether it converged, where; cost, amplitude and background there; and the normal matrix there.
    """
    y, x, log_sigma = at
    lowest, highest = math.log(MIN_SIGMA_PX), math.log(MAX_SIGMA_RADII * radius)
    matrix, trial_matrix = np.zeros((3, 3)), np.zeros((3, 3))
    gradient, trial_gradient, step = np.empty(3), np.empty(3), np.empty(3)
    best = _evaluate(value, row, column, n, at, prior, scratch, matrix, gradient)
    damping = 1e-3
    for _ in range(MAX_STEPS if best[0] < math.inf else 0):
        if not _solve(matrix, damping, gradient, step):
            damping = 10.0 * damping
            continue
        # Half a radius or a factor 1.6 in σ at once: farther, the linear model says nothing.
        part = 1.0 / max(1.0, abs(step[0]) / (0.5 * radius), abs(step[1]) / (0.5 * radius), abs(step[2]) / 0.5)
        to_y, to_x = y + part * step[0], x + part * step[1]
        to_sigma = min(max(log_sigma + part * step[2], lowest), highest)
        small = max(abs(to_y - y), abs(to_x - x)) < STEP * math.exp(log_sigma) and abs(to_sigma - log_sigma) < 10 * STEP
        trial = (math.inf, 0.0, 0.0)
        if (to_y - at[0]) ** 2 + (to_x - at[1]) ** 2 <= radius * radius:
            to = (to_y, to_x, to_sigma)
            trial = _evaluate(value, row, column, n, to, prior, scratch, trial_matrix, trial_gradient)
        if trial[0] <= best[0]:
            y, x, log_sigma, best = to_y, to_x, to_sigma, trial
            matrix, trial_matrix = trial_matrix, matrix
            gradient, trial_gradient = trial_gradient, gradient
            damping = max(0.1 * damping, 1e-9)
        else:
            damping = 10.0 * damping
        if small and damping < 1.0:  # refused or not: at the bottom, only rounding is left to refuse a step
            return lowest < log_sigma < highest, (y, x, log_sigma), best, matrix
    return False, (y, x, log_sigma), best, matrix


@kernel()
def _fit(
    value: Floats,
    row: Ints,
    column: Ints,
    n: int,
    at: tuple[float, float, float],
    prior: tuple[float, float],
    radius: float,
    scratch: Scratch,
    fit: Floats,
) -> None:
    """Fit one disc. Positions count from its first row and column. Writes ``fit``; leaves it where the fit fails.

    ``value`` is rescaled in place: heights in metres are 10⁻¹⁰ and their squares would vanish beside the tolerances.
    """
    mean = scale = 0.0
    for k in range(n):
        mean += value[k] / n
    for k in range(n):
        scale += (value[k] - mean) ** 2
    scale = math.sqrt(scale / max(n, 1))
    if n <= PARAMETERS or not scale > 0.0:
        return
    for k in range(n):
        value[k] = (value[k] - mean) / scale
    expected, weight = prior[0], prior[1] / scale**2
    converged, where, best, matrix = _search(value, row, column, n, at, (expected, weight), radius, scratch)
    if not converged:
        return
    noise = max(best[0] - weight * (expected - where[2]) ** 2, 0.0) / (n - PARAMETERS)
    unit, column_of_inverse, variance = np.zeros(3), np.empty(3), 0.0
    for i in range(2):
        unit[i], unit[1 - i] = 1.0, 0.0
        if not _solve(matrix, 0.0, unit, column_of_inverse):
            return
        variance += 0.5 * noise * column_of_inverse[i]
    fit[Y], fit[X], fit[LOG_SIGMA] = where
    fit[AMPLITUDE], fit[BACKGROUND] = best[1] * scale, best[2] * scale + mean
    fit[STD], fit[NOISE] = math.sqrt(variance), noise * scale**2
    fit[PRECISION] = max(matrix[2, 2] - weight, 0.0) / max(noise, 1e-12)
    fit[PULL] = weight / max(noise, 1e-12)
    fit[CONVERGED] = 1.0


@kernel()
def clear(fit: Floats) -> None:
    """Mark a row of the table as not converged."""
    for i in range(COLUMNS):
        fit[i] = math.nan
    fit[CONVERGED] = 0.0


@kernel()
def fit_all(
    image: Pixels,
    usable: Mask,
    yx: Floats,
    before: Floats,
    radius: float,
    prior: tuple[float, float, float],
    fits: Floats,
) -> None:
    """Fit every column alone, once.

    Parameters
    ----------
    image, usable
        ``(H, W)`` float32 and bool.
    yx
        ``(N, 2)`` positions that the user gave: a fit that ends farther than the radius from there has not converged.
    before
        ``(N, COLUMNS)`` fits of the pass before; the position is always set (to the user's where it did not converge).
    radius
        Radius of the disc in pixels.
    prior
        Expected ln σ, where every fit starts; its standard deviation (0: no pull towards it); and the noise variance
        that is assumed for columns that have not converged before.
    fits
        ``(N, COLUMNS)``, filled.
    """
    side = 2 * math.ceil(radius) + 1
    value = np.empty(side * side)
    row, column = np.empty(side * side, np.int64), np.empty(side * side, np.int64)
    scratch = (np.empty(side), np.empty(side), np.empty(19))
    expected, spread, usual_noise = prior
    for i in range(len(yx)):
        fit = fits[i]
        clear(fit)
        y, x = before[i, Y], before[i, X]
        n, top, left = gather(image, usable, y, x, radius, value, row, column)
        noise = before[i, NOISE] if before[i, CONVERGED] else usual_noise
        weight = noise / spread**2 if spread > 0.0 else 0.0
        _fit(value, row, column, n, (y - top, x - left, expected), (expected, weight), radius, scratch, fit)
        fit[Y] += top
        fit[X] += left
        if not math.hypot(fit[Y] - yx[i, 0], fit[X] - yx[i, 1]) <= radius:
            clear(fit)
            fit[Y], fit[X] = yx[i, 0], yx[i, 1]
