"""The simulated scenes on which finders of defects are scored, and those on which they may be tuned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spm_runtime.scan import Scan
from spm_training.data import Split
from spm_training.simulate.surfaces import FAMILIES, NOISE_LEVELS, SurfaceScene, simulate_surface

__all__ = ["DEFECTS_SEED", "DefectOptions", "Shown", "evaluation_scenes", "scan_of", "validation_scenes"]

#: Seed of the evaluation set; changing it would make the published tables incomparable.
DEFECTS_SEED = 77_002


@dataclass(frozen=True)
class DefectOptions:
    """Which images are scored.

    Parameters
    ----------
    images
        Images with defects at every noise level, and as many without defects. They take the families in turn.
    side_px
        Side of an image.
    families
        Names out of `spm_training.simulate.surfaces.FAMILIES`.
    """

    images: int = 8
    side_px: int = 256
    families: tuple[str, ...] = tuple(FAMILIES)

    @property
    def total(self) -> int:
        """Number of all images."""
        return 2 * self.images * len(NOISE_LEVELS)


class Shown(NamedTuple):
    """A scene, the noise level it was drawn at, and whether it was drawn without defects."""

    noise: str
    empty: bool
    scene: SurfaceScene


def evaluation_scenes(options: DefectOptions) -> Iterator[Shown]:
    """The scenes that are scored, one after the other, the same for the same options."""
    return _scenes(options, Split.EVALUATION)


def validation_scenes(options: DefectOptions, *, first: int = 0) -> Iterator[Shown]:
    """Like `evaluation_scenes`, but of the validation split: what may be looked at to tune or to calibrate.

    Parameters
    ----------
    options
        Which images.
    first
        So many images of every noise level are passed over, a multiple of the number of families: the others are new.
    """
    return _scenes(options, Split.VALIDATION, first)


def _scenes(options: DefectOptions, split: Split, first: int = 0) -> Iterator[Shown]:
    count = len(options.families)
    for empty in (False, True):
        for level, noise in enumerate(NOISE_LEVELS):
            for index in range(first, first + options.images):
                # Every level begins with another family, so that few images show all of them.
                turn = index + level * options.images
                family = options.families[turn % count]
                # A family's images do not depend on which others there are.
                entropy = (DEFECTS_SEED, int(split), list(FAMILIES).index(family), level, index // count, int(empty))
                scene = simulate_surface(
                    np.random.default_rng(np.random.SeedSequence(entropy)),
                    shape=(options.side_px, options.side_px),
                    families=[family],
                    noise=noise,
                    defects=not empty,
                )
                yield Shown(noise, empty, scene)


def scan_of(scene: SurfaceScene) -> Scan:
    """The scene as a reader gives a file of it: heights in metres, as most instruments write them, and a pixel size."""
    pixel = scene.pixel_size_nm
    return Scan(
        scene.image * np.float32(1e-9),
        unit="m",
        pixel_size_nm=(pixel, pixel),
        modality="stm",
        channel="Z",
        direction="forward",
    )
