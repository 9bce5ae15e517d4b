"""What a restorer learns to make small: mean absolute error, structural dissimilarity, error of the slopes.

Source: hackathon of 17/12/2024, "Model summaries": model 1 learns from MAE and SSIM, model 2 from MAE, model 3 from MAE, SSIM and
"a custom gradient loss to help reduce blur". Their weights are not printed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_error", "restore_loss", "structural_similarity"]

#: Window and constants of Z. Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE
#: Trans. Image Process. 13 (2004) 600: a Gaussian of 11 pixels and σ 1.5, K1 = 0.01, K2 = 0.03.
_RADIUS_PX, _SIGMA_PX = 5, 1.5
_K1, _K2 = 0.01, 0.03


def structural_similarity(a: Tensor, b: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Structural similarity of pairs of images, ``(B,)``, at most 1; differentiable.

    Parameters
    ----------
    a, b
        ``(B, 1, H, W)``, H and W at least 11.
    data_range
        Difference of the largest and the smallest value that are possible; normalised heights have a range of about 1.

    Raises
    ------
    ValueError
        If the shapes differ or an image is smaller than the window.

    Notes
    -----
    The mean is taken over the pixels whose window lies in the image, with moments of the population: what
    `skimage.metrics.structural_similarity` gives with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``.
    """
    side = 2 * _RADIUS_PX + 1
    if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 1 or min(a.shape[2:]) < side:
        raise ValueError(
            f"images {tuple(a.shape)} and {tuple(b.shape)}: expected equal shapes (B, 1, ≥{side}, ≥{side})"
        )
    # Spreads are differences of moments: eight bits of autocast would be nothing but rounding.
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        moments = _smoothed(torch.cat((a, b, a * a, b * b, a * b), dim=1))
        mean_a, mean_b, aa, bb, ab = moments.unbind(dim=1)
        c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
        means = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
        spreads = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a.square() + bb - mean_b.square() + c2)
        return (means * spreads).mean(dim=(1, 2))


def gradient_error(error: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along rows and columns of an error ``(B, 1, H, W)``, a scalar."""
    return (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2


def restore_loss(
    restored: Tensor, clean: Tensor, *, mae: float, ssim: float, gradient: float, unit: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms of the loss and their weighted sum.

    Parameters
    ----------
    restored, clean
        ``(B, 1, H, W)`` normalised heights.
    mae, ssim, gradient
        Weights of the mean absolute error, of 1 − SSIM and of `gradient_error`; 0 leaves a term out of the sum.
    unit
        ``(B, 1, 1, 1)`` heights in which the two errors of each image are counted; 1 where none is given.

    Returns
    -------
    ``loss``, and the terms without their weights: ``mae``, ``dissimilarity``, ``gradient``. Each is a mean over the images.

    Notes
    -----
    SSIM compares brightness, which is not negative: the lowest point of a clean surface counts as black.
    """
    error = restored - clean
    if unit is not None:
        error = error / unit
    black = clean.amin(dim=(1, 2, 3), keepdim=True)

    def dissimilarity() -> Tensor:
        return 1 - structural_similarity(restored - black, clean - black).mean()

    parts: dict[str, tuple[float, Callable[[], Tensor]]] = {
        "mae": (mae, lambda: error.abs().mean()),
        "dissimilarity": (ssim, dissimilarity),
        "gradient": (gradient, lambda: gradient_error(error)),
    }
    terms = {}
    for name, (weight, term) in parts.items():
        # What is only looked at needs no gradient, which is most of its cost.
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            terms[name] = term()
    return {"loss": torch.stack([parts[name][0] * value for name, value in terms.items()]).sum(), **terms}


def _smoothed(maps: Tensor) -> Tensor:
    """Mean in the Gaussian window, ``(…, H, W)`` → ``(…, H − 10, W − 10)``.

    Two products with banded matrices: convolutions of one channel take ten times as long on a CPU, and CUDA does them in TF32.
    """
    rows, columns = (_bands(length, maps) for length in maps.shape[-2:])
    return rows @ maps @ columns.T


def _bands(length: int, like: Tensor) -> Tensor:
    """``(length − 10, length)``: the window at every place where it fits."""
    place = torch.arange(length, dtype=like.dtype, device=like.device)
    offset = place[None, :] - place[: length - 2 * _RADIUS_PX, None] - _RADIUS_PX
    window = torch.where(offset.abs() <= _RADIUS_PX, torch.exp(-0.5 * (offset / _SIGMA_PX) ** 2), 0.0)
    return window / window.sum(dim=1, keepdim=True)
