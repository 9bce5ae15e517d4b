"""One page of pictures: what denoisers make of the same images, simulated ones and real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spm_runtime.levelling import fit_plane
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.scan import Scan
from spm_training.denoise.scenes import SURFACES, Shown
from spm_training.denoise.taken import ScanTaken, what_was_taken
from spm_training.peers.denoise import Denoiser
from spm_training.peers.denoise_scores import score
from spm_training.restore.pictures import RealExample
from spm_training.restore.score import Restored
from spm_training.studies.page import Page
from spm_training.studies.plots import Picture, grey_scale, pictures

__all__ = ["Examples", "add_examples", "add_real", "of_scan", "peer_of_scan"]

#: What was taken away is drawn this much stronger than the image.
_STRONGER = 4

Pixels = NDArray[np.float32]


@dataclass(eq=False)
class Examples:
    """Keeps what all methods made of the first image of every kind at every level of noise."""

    kept: list[tuple[Shown, Mapping[str, Pixels]]] = field(default_factory=list)

    def __call__(self, shown: Shown, made: Mapping[str, Pixels]) -> None:
        """Keep an image, or not."""
        if shown.number == 0:
            self.kept.append((shown, dict(made)))


def add_examples(page: Page, examples: Examples, order: Sequence[str]) -> None:
    """Add a row of pictures for every kept image; all of a row have one grey scale, that of the clean image.

    Parameters
    ----------
    page
        The report.
    examples
        What was kept.
    order
        Names of the methods; others are left out.
    """
    for shown, made in examples.kept:
        scene = shown.scene
        ends = grey_scale(scene.clean)
        row = [Picture("clean", scene.clean, ends), Picture(_title("noisy", scene.image, shown), scene.image, ends)]
        row += [Picture(_title(name, made[name], shown), made[name], ends) for name in order if name in made]
        unit = "the relief" if scene.name == SURFACES else "an atom's height"
        words = f"{scene.name}, noise {shown.level}: rms {scene.noise_rms:.2f} of {unit}"
        page.figure(pictures(row), words)


def add_real(page: Page, examples: Iterable[RealExample]) -> list[ScanTaken]:
    """Add before, after and what was taken away of real scans, levelled by a plane for the eye; no truth is known.

    Returns
    -------
    Figures of what was taken away, scan after scan and method after method.
    """
    found = []
    for example in examples:
        scan = example.scan
        file = scan.label if scan.path is None else scan.path.name
        # What levels the scan levels what was made of it: otherwise a change of the plane would look like one of the surface.
        plane = fit_plane(scan.image)
        before = scan.image - plane
        low, high = grey_scale(before)
        reach = (high - low) / 2 / _STRONGER
        row = [Picture("before", before, (low, high))]
        for name, made in example.made.items():
            row.append(Picture(f"after: {name}", made.heights - plane, (low, high)))
            taken = np.asarray(scan.image, np.float64) - made.heights
            row.append(Picture(f"taken away, {_STRONGER} times: {name}", taken, (-reach, reach)))
            found.append(ScanTaken(file, name, what_was_taken(scan.image, made.heights)))
        refused = "".join(f"; {name}: {why}" for name, why in example.refused.items())
        page.figure(pictures(row), f"{file}, {scan.label}, {scan.shape[0]}×{scan.shape[1]} px{refused}")
    return found


def of_scan(denoise: Callable[[Scan], Pixels]) -> Callable[[Scan], Restored]:
    """A denoiser of scans as what goes through a folder of them (`spm_training.restore.pictures.real_examples`)."""
    return lambda scan: Restored(denoise(scan))


def peer_of_scan(denoiser: Denoiser) -> Callable[[Scan], Pixels]:
    """A classical denoiser on a real scan: on the same view as the networks, told the white noise that it estimates."""

    def denoised(scan: Scan) -> Pixels:
        view = denoise_view(scan.image)
        return view.restored(denoiser(view.image, view.noise) if view.noise > 0 else view.image)

    return denoised


def _title(name: str, image: Pixels, shown: Shown) -> str:
    figures = score(image, shown.scene.clean)
    return f"{name}\n{figures.psnr_db:.1f} dB, SSIM {figures.ssim:.2f}"
