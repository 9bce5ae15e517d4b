"""The simulated scans on which restorers are scored, and those on which they may be tuned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spm_runtime.scan import Scan
from spm_training.simulate.tips import FAMILIES, SURFACES, Modality, Split, TipScene, scene_rng, simulate_tip_scene

__all__ = [
    "GOOD",
    "GOOD_TIP_PX",
    "MODALITIES",
    "NM_TO_M",
    "RESTORE_SEED",
    "RestoreOptions",
    "Shown",
    "evaluation_scenes",
    "scan_of",
    "validation_scenes",
]

#: Seed of the evaluation set; changing it would make the published tables incomparable.
RESTORE_SEED = 77_003
#: A tip is good when its reach (`TipScene.tip_scale_px`) is at most one pixel, and what it does to the image (rms of blurred −
#: clean) at most so large a share of what came after it (rms of image − blurred).
GOOD_TIP_PX, GOOD_TIP_SHARE = 1.0, 0.5
#: Kinds of microscopes, always reported apart.
MODALITIES: tuple[Modality, ...] = ("afm", "stm")
#: Heights of a scene are in nanometres, those of a scan in metres.
NM_TO_M = np.float32(1e-9)

#: Scenes of every family and modality have a range of indices of their own; after the families come the good tips.
_RANGE = 1_000_000


@dataclass(frozen=True)
class RestoreOptions:
    """Which images are scored.

    Parameters
    ----------
    images
        Images of every family and modality; the kinds of surfaces take turns. As many again have a good tip.
    side_px
        Side of an image, at least 64.
    families
        Names out of `spm_training.simulate.tips.FAMILIES`.
    modalities
        ``afm``, ``stm`` or both.
    """

    images: int = 8
    side_px: int = 256
    families: tuple[str, ...] = FAMILIES
    modalities: tuple[Modality, ...] = MODALITIES

    @property
    def total(self) -> int:
        """Number of all images."""
        return self.images * len(self.modalities) * (len(self.families) + 1)


@dataclass(frozen=True, eq=False)
class Shown:
    """A scene and its place in the set.

    Parameters
    ----------
    group
        The family of the corruption, or ``good tip``.
    index
        Number of the image in its group.
    scene
        The scene.
    """

    group: str
    index: int
    scene: TipScene


#: Group of the images whose tip is sharper than a pixel.
GOOD = "good tip"


def evaluation_scenes(options: RestoreOptions) -> Iterator[Shown]:
    """The scenes that are scored, one after the other; those of fewer images are the first of more."""
    for modality in options.modalities:
        for family in options.families:
            yield from _scenes(options, "test", modality, family)
        yield from _good_tips(options, modality)


def validation_scenes(options: RestoreOptions) -> Iterator[Shown]:
    """Like `evaluation_scenes`, but of the validation split and without good tips: what may be looked at to tune."""
    for modality in options.modalities:
        for family in options.families:
            yield from _scenes(options, "validation", modality, family)


def scan_of(scene: TipScene) -> Scan:
    """The scene as a reader gives a file of it: heights in metres, as most instruments write them, and a pixel size."""
    pixel = scene.pixel_size_nm
    return Scan(
        scene.image * NM_TO_M,
        unit="m",
        pixel_size_nm=(pixel, pixel),
        modality=scene.modality,
        channel="Height" if scene.modality == "afm" else "Z",
        direction="forward",
    )


def _scenes(options: RestoreOptions, split: Split, modality: Modality, family: str) -> Iterator[Shown]:
    first = _RANGE * (10 * MODALITIES.index(modality) + FAMILIES.index(family))
    for index in range(options.images):
        # Every family begins with other kinds, so that few images show many of them.
        surface = _in_turn(SURFACES[modality], index + 2 * FAMILIES.index(family))
        yield Shown(family, index, _scene(options, split, first + index, modality, family, surface))


def _good_tips(options: RestoreOptions, modality: Modality) -> Iterator[Shown]:
    """The first scenes of the family ``blunt`` whose tip is good: about one in fifteen is."""
    number = _RANGE * (10 * MODALITIES.index(modality) + len(FAMILIES))
    for index in range(options.images):
        surface = _in_turn(SURFACES[modality], index)
        while True:
            scene = _scene(options, "test", number, modality, "blunt", surface)
            number += 1
            if _is_good(scene):
                yield Shown(GOOD, index, scene)
                break


def _is_good(scene: TipScene) -> bool:
    if scene.tip_scale_px > GOOD_TIP_PX:
        return False
    by_tip, after_it = (np.mean(part**2) for part in (scene.blurred - scene.clean, scene.image - scene.blurred))
    return bool(by_tip <= GOOD_TIP_SHARE**2 * after_it)


def _scene(
    options: RestoreOptions, split: Split, number: int, modality: Modality, family: str, surface: str
) -> TipScene:
    return simulate_tip_scene(
        scene_rng(split, number, seed=RESTORE_SEED),
        shape=(options.side_px, options.side_px),
        modality=modality,
        families=[family],
        surfaces=[surface],
    )


def _in_turn(names: Sequence[str], index: int) -> str:
    return names[index % len(names)]
