"""Scores of a package that takes noise away, through the runtime's own pipeline, on lattices that no training draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spm_runtime.models import ModelPackage
from spm_runtime.pipelines import analyse
from spm_runtime.scan import Scan
from spm_runtime.session import Device
from spm_training.data import Split
from spm_training.peers.denoise import Denoiser
from spm_training.peers.denoise_scores import DenoiseScores, defect_contrast, draw_lattices, score
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS, LatticeScene
from spm_training.tables import markdown_table

__all__ = ["DENOISE_SEED", "DenoiseOptions", "DenoiseReport", "LatticeScore", "package_denoiser", "score_denoiser"]

#: Seed of the evaluation set; changing it would make the published tables incomparable.
DENOISE_SEED = 77_007
#: Pixel size of the scenes: some tens of pixels for a lattice unit of half a nanometre.
_PIXEL_NM = 0.03


@dataclass(frozen=True)
class DenoiseOptions:
    """Which images are scored.

    Parameters
    ----------
    images
        Images of every lattice at every level of noise.
    side_px
        Side of an image.
    names
        Names out of `LATTICES`.
    defects
        Share of the sites that are vacancies, and of those that carry an adatom.
    """

    images: int = 4
    side_px: int = 256
    names: tuple[str, ...] = tuple(LATTICES)
    defects: float = 0.01

    @property
    def total(self) -> int:
        """Number of all images."""
        return self.images * len(self.names) * len(NOISE_LEVELS)

    def scenes(self) -> Iterator[tuple[str, LatticeScene]]:
        """Level of noise and image; the surfaces are the same at every level."""
        for level, noise in NOISE_LEVELS.items():
            drawn = draw_lattices(
                DENOISE_SEED,
                Split.EVALUATION,
                noise,
                names=self.names,
                count=self.images,
                side_px=self.side_px,
                vacancies=self.defects,
                adatoms=self.defects,
            )
            for scene in drawn:
                yield level, scene


@dataclass(frozen=True)
class LatticeScore:
    """Scores of one image.

    Parameters
    ----------
    lattice, noise
        What it shows, and at what level of noise.
    before, after
        Of the image as it was, and of the answer.
    vacancy, adatom
        Share of the contrast that was left standing (`defect_contrast`); NaN where there is none of the kind.
    """

    lattice: str
    noise: str
    before: DenoiseScores
    after: DenoiseScores
    vacancy: float
    adatom: float

    @property
    def gain_db(self) -> float:
        """Of the PSNR."""
        return self.after.psnr_db - self.before.psnr_db


@dataclass(frozen=True)
class DenoiseReport:
    """All scores of one package.

    Parameters
    ----------
    options
        Which images were scored.
    scores
        One per image.
    """

    options: DenoiseOptions
    scores: Sequence[LatticeScore]

    def headline(self) -> dict[str, float]:
        """The few numbers that a package carries in its description."""
        values: dict[str, float] = {}
        for level in NOISE_LEVELS:
            chosen = [one for one in self.scores if one.noise == level]
            values |= {
                f"psnr_{level}": _mean([one.after.psnr_db for one in chosen]),
                f"psnr_gain_{level}": _mean([one.gain_db for one in chosen]),
                f"ssim_{level}": _mean([one.after.ssim for one in chosen]),
                f"vacancy_contrast_{level}": _mean([one.vacancy for one in chosen]),
                f"adatom_contrast_{level}": _mean([one.adatom for one in chosen]),
            }
        return {name: round(value, 4) for name, value in values.items() if np.isfinite(value)}

    def markdown(self) -> str:
        """The table with its conditions below."""
        rows = []
        for level in NOISE_LEVELS:
            for name in self.options.names:
                chosen = [one for one in self.scores if (one.lattice, one.noise) == (name, level)]
                rows.append(
                    [
                        f"{name}, {level}",
                        _quality([one.before for one in chosen]),
                        _quality([one.after for one in chosen]),
                        f"{_mean([one.gain_db for one in chosen]):+.2f}",
                        f"{_mean([one.vacancy for one in chosen]):.2f}",
                        f"{_mean([one.adatom for one in chosen]):.2f}",
                    ]
                )
        headings = (
            "MSE / PSNR / SSIM",
            "as recorded",
            "denoised",
            "gain in dB",
            "vacancies left",
            "adatoms left",
        )
        levels = "; ".join(
            f"{level}: white noise of {np.hypot(noise.thermal, noise.shot):.2f}, striations of {noise.striation:.2f}"
            for level, noise in NOISE_LEVELS.items()
        )
        return markdown_table(headings, rows) + (
            f"\nSimulated images of {self.options.side_px}×{self.options.side_px} px that no training draws, "
            f"{self.options.images} of every lattice and level of noise, against the clean image; an atom in the plane has "
            f"height 1. {levels} (rms). {100 * self.options.defects:g} % of the sites are vacancies and as many carry an adatom: "
            "of what these add to the clean image, the share that is left in the answer. Means over images.\n"
        )


def package_denoiser(package: ModelPackage, device: Device = "cpu") -> Denoiser:
    """A package as what the peers are: an image in, the image without noise out."""

    def denoised(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        scan = Scan(image, unit="nm", pixel_size_nm=(_PIXEL_NM, _PIXEL_NM), modality="stm", channel="Z")
        result = analyse(scan, "denoise", model=package.folder, device=device)
        return next(one.data for one in result.maps if one.name == "denoised").astype(np.float32)

    return denoised


def score_denoiser(
    denoiser: Denoiser, options: DenoiseOptions, *, on_image: Callable[[Any], object] | None = None
) -> DenoiseReport:
    """Score what takes noise away.

    Parameters
    ----------
    denoiser
        A package (`package_denoiser`) or a peer.
    options
        Which images.
    on_image
        Called with the score of every image.
    """
    scores = []
    for level, scene in options.scenes():
        answer = denoiser(scene.image, scene.noise_rms)
        contrast: Mapping[str, float] = defect_contrast(scene, denoiser)
        before, after = score(scene.image, scene.clean), score(answer, scene.clean)
        scores.append(LatticeScore(scene.name, level, before, after, contrast["vacancy"], contrast["adatom"]))
        if on_image is not None:
            on_image(scores[-1])
    return DenoiseReport(options, scores)


def _quality(scores: Sequence[DenoiseScores]) -> str:
    means = (_mean([getattr(one, name) for one in scores]) for name in ("mse", "psnr_db", "ssim"))
    return "{:.5f} / {:.2f} / {:.3f}".format(*means)


def _mean(values: Sequence[float]) -> float:
    """Mean of the finite ones; NaN where there is none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
