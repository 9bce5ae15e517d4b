"""Compiled cores of `spm_kernels.refine`: all columns of an image together.

The model is a sum of Gaussians. What it leaves of the image, the *rest*, is kept up to date while the columns are visited
in turn: each takes one damped Gauss–Newton step in (A, y, x, ln σ) on the rest in its own window, a constant in the
window projected out (block Gauss–Seidel). A column sees its neighbours as they are now, so overlapping columns settle
where solving them all at once, each from the others' old state, would swing up.

A Gaussian is a product of one factor in y and one in x, so the sums over a window are sums over its sides, and only those
with the rest run over its area.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from spm_kernels._gaussian import (
    AMPLITUDE,
    BACKGROUND,
    CONVERGED,
    LOG_SIGMA,
    NOISE,
    PARAMETERS,
    PRECISION,
    PULL,
    STD,
    Floats,
    Ints,
    Pixels,
    X,
    Y,
    clear,
    profile,
)
from spm_kernels._jit import kernel

Window: TypeAlias = tuple[int, int, int, int]
Grid: TypeAlias = tuple[Ints, Ints, tuple[int, int]]

#: Tails are cut where they have fallen to 2 × 10⁻³, and with them at most 2 × 10⁻³ of a neighbour's slope.
TAIL_SIGMAS = 3.5
#: Largest change in one visit: of a position in radii, of an amplitude in parts of it, of ln σ.
MAX_STEP, MAX_GROWTH, MAX_WIDTH_STEP = 0.2, 0.5, 0.15
#: A fit climbs onto the noise: amplitude and two coordinates each add the amplitude's variance to its square, and what the
#: square promises of the position is taken back by as much; to no less than a quarter.
LIFT, LEAST_SQUARE = 3.0, 0.25
#: Two inputs nearer than this many radii are one column.
SAME_RADII = 0.5
#: Neighbours farther than this many radii (two spacings for a radius of 0.45 spacing) are not looked for.
REACH_RADII = 4.5


@kernel(inline="always")
def _window(y: float, x: float, reach: float, shape: tuple[int, int]) -> Window:
    """First and last row, first and last column of a square, clipped to the image."""
    return (
        max(math.ceil(y - reach), 0),
        min(math.floor(y + reach), shape[0] - 1),
        max(math.ceil(x - reach), 0),
        min(math.floor(x + reach), shape[1] - 1),
    )


@kernel(fastmath={"reassoc", "contract"})
def _change(rest: Pixels, usable: Pixels, old: Floats, new: Floats, radius: float, scratch: Pixels) -> None:
    """Put one Gaussian back into the rest and take another one, near it, out."""
    out_sigma, in_sigma = math.exp(old[LOG_SIGMA]), math.exp(new[LOG_SIGMA])
    reach = TAIL_SIGMAS * max(out_sigma, in_sigma) + MAX_STEP * radius
    top, bottom, left, right = _window(new[Y], new[X], reach, rest.shape)
    if bottom < top or right < left:
        return
    height, width = bottom - top + 1, right - left + 1
    out_y, in_y = scratch[0, :height], scratch[1, :height]
    out_x, in_x = scratch[2, :width], scratch[3, :width]
    profile(old[Y] - top, out_sigma, out_y)
    profile(new[Y] - top, in_sigma, in_y)
    profile(old[X] - left, out_sigma, out_x)
    profile(new[X] - left, in_sigma, in_x)
    for v in range(height):
        back, out = np.float32(old[AMPLITUDE]) * out_y[v], np.float32(new[AMPLITUDE]) * in_y[v]
        row, there = rest[top + v, left : right + 1], usable[top + v, left : right + 1]
        for u in range(width):
            row[u] += there[u] * (back * out_x[u] - out * in_x[u])


@kernel()
def _moments(centre: float, g: Floats, m: Floats) -> None:
    """Sums over one factor of a Gaussian: its square times 1, d, d², d³, d⁴, and itself times 1, d, d²."""
    for k in range(8):
        m[k] = 0.0
    for i in range(len(g)):
        d = i - centre
        q = g[i] * g[i]
        m[0] += q
        m[1] += q * d
        m[2] += q * d * d
        m[3] += q * d * d * d
        m[4] += q * d * d * d * d
        m[5] += g[i]
        m[6] += g[i] * d
        m[7] += g[i] * d * d


@kernel(fastmath={"reassoc", "contract"})
def _with_rest(rest: Pixels, window: Window, y: float, x: float, along_y: Floats, along_x: Floats, out: Floats) -> None:
    """Sums of the rest times g, g·dy, g·dx, g·r² and 1 over a window."""
    top, bottom, left, right = window
    s_g = s_y = s_x = s_r = s_1 = 0.0
    for v in range(top, bottom + 1):
        row = rest[v]
        r_0 = r_1 = r_2 = one = 0.0
        for u in range(right - left + 1):
            value = row[left + u]
            d = left + u - x
            t = value * along_x[u]
            r_0 += t
            r_1 += t * d
            r_2 += t * d * d
            one += value
        dy, g = v - y, along_y[v - top]
        s_g += g * r_0
        s_y += g * dy * r_0
        s_x += g * r_1
        s_r += g * (dy * dy * r_0 + r_2)
        s_1 += one
    out[0], out[1], out[2], out[3], out[4] = s_g, s_y, s_x, s_r, s_1


@kernel()
def _normal(slope: float, my: Floats, mx: Floats, n: float, matrix: Floats, means: Floats) -> None:
    """Lower triangle of the normal matrix of (A, y, x, ln σ) with a constant projected out, from the sides' sums."""
    k = slope
    means[0], means[1], means[2] = my[5] * mx[5], k * my[6] * mx[5], k * my[5] * mx[6]
    means[3] = k * (my[7] * mx[5] + my[5] * mx[7])
    matrix[0, 0] = my[0] * mx[0]
    matrix[1, 0] = k * my[1] * mx[0]
    matrix[2, 0] = k * my[0] * mx[1]
    matrix[3, 0] = k * (my[2] * mx[0] + my[0] * mx[2])
    matrix[1, 1] = k * k * my[2] * mx[0]
    matrix[2, 1] = k * k * my[1] * mx[1]
    matrix[3, 1] = k * k * (my[3] * mx[0] + my[1] * mx[2])
    matrix[2, 2] = k * k * my[0] * mx[2]
    matrix[3, 2] = k * k * (my[2] * mx[1] + my[0] * mx[3])
    matrix[3, 3] = k * k * (my[4] * mx[0] + 2.0 * my[2] * mx[2] + my[0] * mx[4])
    for i in range(4):
        for j in range(i + 1):
            matrix[i, j] -= means[i] * means[j] / n


@kernel()
def _factor(matrix: Floats, lower: Floats) -> bool:
    """Cholesky factor of a symmetric matrix; False where it is not positive definite."""
    for i in range(len(matrix)):
        for j in range(i + 1):
            s = matrix[i, j]
            for t in range(j):
                s -= lower[i, t] * lower[j, t]
            if j < i:
                lower[i, j] = s / lower[j, j]
            elif s > 1e-9 * matrix[i, i]:  # False for NaN too
                lower[i, i] = math.sqrt(s)
            else:
                return False
    return True


@kernel()
def _solve(lower: Floats, right: Floats, out: Floats) -> None:
    """Solve a system whose Cholesky factor is known."""
    size = len(lower)
    for i in range(size):
        s = right[i]
        for t in range(i):
            s -= lower[i, t] * out[t]
        out[i] = s / lower[i, i]
    for k in range(size):
        i = size - 1 - k
        s = out[i]
        for t in range(i + 1, size):
            s -= lower[t, i] * out[t]
        out[i] = s / lower[i, i]


@kernel()
def take_out(rest: Pixels, usable: Pixels, fits: Floats, radius: float) -> None:
    """Subtract every column of the table that takes part from the image."""
    scratch = np.empty((4, max(rest.shape)), np.float32)
    for i in range(len(fits)):
        if fits[i, CONVERGED] > 0.0:
            old = fits[i].copy()
            old[AMPLITUDE] = 0.0
            _change(rest, usable, old, fits[i], radius, scratch)


@kernel()
def sweep(
    rest: Pixels,
    usable: Pixels,
    start: Floats,
    prior: Floats,
    width: tuple[float, float],
    radius: float,
    backwards: bool,
    fits: Floats,
) -> float:
    """Visit every column once.

    Parameters
    ----------
    rest
        ``(H, W)`` float32, the image less all columns; 0 at missing pixels. Kept up to date.
    usable
        ``(H, W)`` float32, 1 where there is a measurement and 0 elsewhere.
    start
        ``(N, 2)`` positions that the user gave; columns stay within a radius.
    prior
        ``(N,)`` weight of the start position: noise variance over its own variance.
    width
        Common ln σ, and the weight with which each column's own is drawn to it.
    radius
        Half the side of a column's window, in pixels.
    backwards
        Whether the last column comes first: alternating removes what the order does to the result.
    fits
        ``(N, COLUMNS)``; rows with ``CONVERGED`` above 0 take part. Updated.

    Returns
    -------
    Mean squared step times its inverse variance at unit noise: over the noise's variance it says how far from rest they are.
    """
    size = max(rest.shape)
    scratch = np.empty((4, size), np.float32)
    along_y, along_x, my, mx = np.empty(size), np.empty(size), np.empty(8), np.empty(8)
    matrix, lower = np.empty((4, 4)), np.zeros((4, 4))
    means, right, step, sums = np.empty(4), np.empty(4), np.empty(4), np.empty(5)
    moved = visited = 0.0
    for k in range(len(fits)):
        i = len(fits) - 1 - k if backwards else k
        fit = fits[i]
        if fit[CONVERGED] == 0.0:
            continue
        sigma = math.exp(fit[LOG_SIGMA])
        window = _window(fit[Y], fit[X], radius, rest.shape)
        n = float(max(window[1] - window[0] + 1, 0) * max(window[3] - window[2] + 1, 0))
        if n <= PARAMETERS:
            continue
        gy, gx = along_y[: window[1] - window[0] + 1], along_x[: window[3] - window[2] + 1]
        profile(fit[Y] - window[0], sigma, gy)
        profile(fit[X] - window[2], sigma, gx)
        _moments(fit[Y] - window[0], gy, my)
        _moments(fit[X] - window[2], gx, mx)
        _with_rest(rest, window, fit[Y], fit[X], gy, gx, sums)
        slope = fit[AMPLITUDE] / sigma**2
        _normal(slope, my, mx, n, matrix, means)
        for j in range(4):
            right[j] = (slope if j else 1.0) * sums[j] - means[j] * sums[4] / n
        fit[PRECISION], fit[PULL] = matrix[3, 3], width[1]
        for j, weight, distance in (
            (1, prior[i], start[i, 0] - fit[Y]),
            (2, prior[i], start[i, 1] - fit[X]),
            (3, width[1], width[0] - fit[LOG_SIGMA]),
        ):
            matrix[j, j] += weight
            right[j] += weight * distance
        if not _factor(matrix, lower):
            continue
        _solve(lower, right, step)
        _move(rest, usable, start[i], step, radius, fit, scratch)
        moved += fit[STD] ** 2 * (matrix[1, 1] + matrix[2, 2])
        visited += 1.0
    return moved / max(visited, 1.0)


@kernel()
def _move(
    rest: Pixels,
    usable: Pixels,
    start: Floats,
    step: Floats,
    radius: float,
    fit: Floats,
    scratch: Pixels,
) -> None:
    """Take a bounded step, bring the rest up to date, and note the larger change of a coordinate under ``STD``."""
    old = fit.copy()
    part = min(1.0, MAX_STEP * radius / max(abs(step[1]), abs(step[2]), 1e-12))
    y, x = fit[Y] + part * step[1], fit[X] + part * step[2]
    if math.hypot(y - start[0], x - start[1]) <= radius:
        fit[Y], fit[X] = y, x
    growth = MAX_GROWTH * abs(fit[AMPLITUDE])
    fit[AMPLITUDE] += min(max(step[0], -growth), growth)
    fit[LOG_SIGMA] += min(max(step[3], -MAX_WIDTH_STEP), MAX_WIDTH_STEP)
    _change(rest, usable, old, fit, radius, scratch)
    fit[STD] = max(abs(fit[Y] - old[Y]), abs(fit[X] - old[X]))


@kernel()
def conclude(
    rest: Pixels, usable: Pixels, prior: Floats, pull: float, usual: tuple[float, float], radius: float, fits: Floats
) -> None:
    """Background, residual variance and standard deviation of every column, from the pixels that are really there.

    ``usual`` is the residual variance of the image and how many pixels it counts for in each column. Rows that have no
    finite standard deviation are cleared of ``CONVERGED``.
    """
    size = max(rest.shape)
    along_y, along_x, my, mx = np.empty(size), np.empty(size), np.empty(8), np.empty(8)
    matrix, lower, means = np.empty((4, 4)), np.zeros((4, 4)), np.empty(4)
    unit, column = np.zeros(4), np.empty(4)
    for i in range(len(fits)):
        fit = fits[i]
        if fit[CONVERGED] == 0.0:
            continue
        window = _window(fit[Y], fit[X], radius, rest.shape)
        n, total, squares = _count(rest, usable, window)
        if n <= PARAMETERS:
            clear(fit)
            continue
        gy, gx = along_y[: window[1] - window[0] + 1], along_x[: window[3] - window[2] + 1]
        sigma = math.exp(fit[LOG_SIGMA])
        slope = fit[AMPLITUDE] / sigma**2
        profile(fit[Y] - window[0], sigma, gy)
        profile(fit[X] - window[2], sigma, gx)
        if n == len(gy) * len(gx):
            _moments(fit[Y] - window[0], gy, my)
            _moments(fit[X] - window[2], gx, mx)
            _normal(slope, my, mx, n, matrix, means)
        else:
            _normal_of_some(usable, window, fit, gy, gx, slope, n, matrix, means)
        matrix[1, 1] += prior[i]
        matrix[2, 2] += prior[i]
        matrix[3, 3] += pull
        if not _factor(matrix, lower):
            clear(fit)
            continue
        noise = (max(squares - total * total / n, 0.0) + usual[0] * usual[1]) / (n - PARAMETERS + usual[1])
        square, profile_square = fit[AMPLITUDE] ** 2, matrix[0, 0] + means[0] ** 2 / n
        lifted = square / max(square - LIFT * noise / profile_square, LEAST_SQUARE * square)
        variance = 0.0
        for a in (1, 2):
            unit[1], unit[2] = 2.0 - a, a - 1.0
            _solve(lower, unit, column)
            variance += 0.5 * noise * lifted * column[a]
        fit[BACKGROUND], fit[NOISE], fit[STD] = total / n, noise, math.sqrt(variance)


@kernel(fastmath={"reassoc", "contract"})
def _count(rest: Pixels, usable: Pixels, window: Window) -> tuple[float, float, float]:
    """Number of usable pixels in a window, sum of the rest and of its square."""
    top, bottom, left, right = window
    n = total = squares = 0.0
    for v in range(top, bottom + 1):
        for u in range(left, right + 1):
            n += usable[v, u]
            total += rest[v, u]
            squares += rest[v, u] * rest[v, u]
    return n, total, squares


@kernel()
def _normal_of_some(
    usable: Pixels,
    window: Window,
    fit: Floats,
    gy: Floats,
    gx: Floats,
    slope: float,
    n: float,
    matrix: Floats,
    means: Floats,
) -> None:
    """Like `_normal`, where some pixels of the window are missing."""
    jacobian = np.empty(4)
    for i in range(4):
        means[i] = 0.0
        for j in range(4):
            matrix[i, j] = 0.0
    for v in range(len(gy)):
        for u in range(len(gx)):
            if usable[window[0] + v, window[2] + u] == 0.0:
                continue
            dy, dx = window[0] + v - fit[Y], window[2] + u - fit[X]
            jacobian[0] = gy[v] * gx[u]
            jacobian[1], jacobian[2] = slope * jacobian[0] * dy, slope * jacobian[0] * dx
            jacobian[3] = slope * jacobian[0] * (dy * dy + dx * dx)
            for i in range(4):
                means[i] += jacobian[i]
                for j in range(i + 1):
                    matrix[i, j] += jacobian[i] * jacobian[j]
    for i in range(4):
        for j in range(i + 1):
            matrix[i, j] -= means[i] * means[j] / n


@kernel()
def _cell_of(coordinate: float, cell: float, cells: int) -> int:
    """Index of the grid cell of a coordinate, clipped to the grid."""
    return min(max(int(coordinate / cell), 0), cells - 1)


@kernel()
def overlaps(fits: Floats, grid: Grid, cell: float, radius: float, overlap: Floats, twin: Ints) -> None:
    """How much the neighbours of each column overlap with it, and which earlier column it repeats (−1: none).

    The overlap of two Gaussians of width σ at the distance d is exp(−d²/4σ²), the inner product of their profiles over
    that of one with itself; those of all neighbours are added up.
    """
    order, first, shape = grid
    for i in range(len(fits)):
        overlap[i], twin[i] = 0.0, -1
        y, x = fits[i, Y], fits[i, X]
        r, c = _cell_of(y, cell, shape[0]), _cell_of(x, cell, shape[1])
        for v in range(max(r - 1, 0), min(r + 2, shape[0])):
            for u in range(max(c - 1, 0), min(c + 2, shape[1])):
                for t in range(first[v * shape[1] + u], first[v * shape[1] + u + 1]):
                    j = order[t]
                    if j == i or fits[j, CONVERGED] == 0.0:
                        continue
                    square = (fits[j, Y] - y) ** 2 + (fits[j, X] - x) ** 2
                    if square < (SAME_RADII * radius) ** 2:
                        if j < i and (twin[i] < 0 or j < twin[i]):
                            twin[i] = j
                        continue
                    sigma = math.exp(0.5 * (fits[i, LOG_SIGMA] + fits[j, LOG_SIGMA]))
                    overlap[i] += math.exp(-0.25 * square / sigma**2)
