"""The list of the peers, what each needs, and how its settings are chosen."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spm_training.peers.optional import is_installed
from spm_training.peers.restore.denoised import REMEDY, Bm3dAlone, Bm3dThen
from spm_training.peers.restore.gwyddion import why_missing
from spm_training.peers.restore.morphology import Blind, GwyddionBlind, gwyddion_true_tip
from spm_training.peers.restore.richardson_lucy import TruePsf
from spm_training.peers.restore.tuning import OF_TIPS, RestoreTuning, best
from spm_training.restore.evaluate import Oracle, Restorer, pipeline_restorer
from spm_training.restore.scenes import NM_TO_M, Shown
from spm_training.restore.score import Restored
from spm_training.simulate.tips import FAMILIES, TipScene

__all__ = ["DETAILED", "GWYDDION_BLIND", "Peers", "RestorePeer", "make_peers"]

CLASSICAL = "classical (this project)"
PARTIAL, FULL = "Gwyddion partial", "Gwyddion full"
PARTIAL_TUNED, FULL_TUNED = f"{PARTIAL}, tuned", f"{FULL}, tuned"
TURNED = "Gwyddion tuned, tip turned"
BY_FAMILY = "Gwyddion, tuned by family"
GWYDDION_TRUE = "Gwyddion, true tip"
BM3D, BM3D_THEN = "BM3D", "BM3D + Gwyddion"
RL = "Richardson–Lucy, true PSF"
#: Gwyddion as a user has it, with no knowledge of the truth.
GWYDDION_BLIND = (PARTIAL, FULL, PARTIAL_TUNED, FULL_TUNED)
#: Whose certainty and tip are worth a picture.
DETAILED = (CLASSICAL, PARTIAL)

#: What a user might take without a look at the result.
_FIXED_PX, _FIXED_THRESHOLD = 11, 0.03
#: What is tried. Gwyddion's full estimation takes 2 s for a tip of 15 px and 40 s for one of 31 px, and gains nothing.
_PARTIAL = tuple(
    Blind(False, *one) for one in itertools.product((5, 7, 11, 15, 21), (0.003, 0.005, 0.01, 0.02, 0.03, 0.05))
)
_FULL = tuple(Blind(True, *one) for one in itertools.product((3, 5, 7, 11), (0.01, 0.02, 0.03, 0.05)))
#: After BM3D less noise is left.
_QUIET = tuple(Blind(*one) for one in itertools.product((False, True), (5, 7, 11), (0.001, 0.003, 0.01, 0.02)))
_BM3D = tuple(Bm3dAlone(strength) for strength in (1.4, 2.0, 2.8, 4.0))
_RL = tuple(TruePsf(*one) for one in itertools.product((3, 5, 8, 12, 18, 28), (0.05, 1.0)))


@dataclass(frozen=True)
class RestorePeer:
    """What tables say of a peer: its name, its settings and where they come from, and whether it knows part of the truth."""

    name: str
    description: str
    oracle: bool = False


@dataclass(frozen=True, eq=False)
class Peers:
    """The peers that can run here.

    Parameters
    ----------
    described
        All of them, in the order of the tables.
    restorers, oracles
        By name.
    missing
        Why the others cannot run, by name.
    """

    described: list[RestorePeer] = field(default_factory=list)
    restorers: dict[str, Restorer] = field(default_factory=dict)
    oracles: dict[str, Oracle] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, restorer: Restorer, description: str) -> None:
        """Add a competitor."""
        self.described.append(RestorePeer(name, description))
        self.restorers[name] = restorer

    def add_oracle(self, name: str, oracle: Oracle, description: str) -> None:
        """Add a method that is told part of the truth."""
        self.described.append(RestorePeer(name, description, oracle=True))
        self.oracles[name] = oracle


class _Tuned(NamedTuple):
    """Settings of Gwyddion: of the maxima alone, of all pixels, the better one, and the best for every family."""

    partial: Blind
    full: Blind
    either: Blind
    by_family: dict[str, Blind]


def make_peers(tuning: RestoreTuning) -> Peers:
    """Tune all peers, or take their settings from the cache.

    Raises
    ------
    ParameterError
        If the cache cannot be used.
    """
    peers = Peers()
    peers.add(CLASSICAL, pipeline_restorer("classical"), "blind estimation and erosion of the runtime, at its defaults")
    no_gwyddion = why_missing()
    no_bm3d = None if is_installed("bm3d") else f"bm3d is not installed. Install it: {REMEDY}"
    if no_gwyddion is None:
        _add_gwyddion(peers, tuning)
    else:
        peers.missing.update(dict.fromkeys((*GWYDDION_BLIND, TURNED, BY_FAMILY, GWYDDION_TRUE), no_gwyddion))
    if no_bm3d is None:
        figures = tuning.figures(BM3D, _BM3D, lambda one, shown: one.denoised(shown.scene.image))
        alone = best(_BM3D, figures, FAMILIES)
        peers.add(BM3D, alone, f"{alone}; tuned on all families")
        if no_gwyddion is None:
            then = Bm3dThen(alone, GwyddionBlind(_tuned_after(alone, tuning)))
            peers.add(BM3D_THEN, then, f"{then}; tuned on the families of tips")
    else:
        peers.missing[BM3D] = no_bm3d
    if no_bm3d is not None or no_gwyddion is not None:
        peers.missing[BM3D_THEN] = no_bm3d or no_gwyddion or ""
    figures = tuning.figures(
        RL, _RL, lambda one, shown: one.deconvolved(shown.scene.image, shown.scene.tip), ("convolution",)
    )
    deconvolution = best(_RL, figures, ("convolution",))
    peers.add_oracle(RL, deconvolution, f"told the true point-spread function; {deconvolution}; tuned; a bound")
    return peers


def _add_gwyddion(peers: Peers, tuning: RestoreTuning) -> None:
    tuned = _tuned_gwyddion(tuning)
    for name, full in ((PARTIAL, False), (FULL, True)):
        fixed = Blind(full, _FIXED_PX, _FIXED_THRESHOLD)
        peers.add(name, GwyddionBlind(fixed), f"libgwyddion: {fixed}; a fixed setting")
    for name, settings in ((PARTIAL_TUNED, tuned.partial), (FULL_TUNED, tuned.full)):
        peers.add(name, GwyddionBlind(settings), f"libgwyddion: {settings}; tuned on the families of tips")
    turned = Blind(tuned.either.full, tuned.either.tip_px, tuned.either.threshold, turned=True)
    peers.add(TURNED, GwyddionBlind(turned), f"libgwyddion: {turned}; the mistake of Gwyddion's own erosion undone")

    def by_family(scene: TipScene) -> Restored | None:
        settings = tuned.by_family[scene.family]
        return Restored(settings(scene.image) * NM_TO_M)

    told = "; ".join(f"{family}: {settings}" for family, settings in tuned.by_family.items())
    peers.add_oracle(BY_FAMILY, by_family, f"told the family, by this project's kernels, tip not turned; {told}")
    peers.add_oracle(GWYDDION_TRUE, gwyddion_true_tip, "libgwyddion: erosion by the true tip; the bound of morphology")


def _tuned_gwyddion(tuning: RestoreTuning) -> _Tuned:
    """Settings with the highest mean PSNR over the families of tips, and by family; all by this project's kernels."""

    def attempt(settings: Blind, shown: Shown) -> NDArray[np.float32]:
        return settings(shown.scene.image)

    partial, full = (tuning.figures(name, grid, attempt) for name, grid in ((PARTIAL, _PARTIAL), (FULL, _FULL)))
    both, figures = _PARTIAL + _FULL, {**partial, **full}
    return _Tuned(
        best(_PARTIAL, partial, OF_TIPS),
        best(_FULL, full, OF_TIPS),
        best(both, figures, OF_TIPS),
        {family: best(both, figures, (family,)) for family in FAMILIES},
    )


def _tuned_after(first: Bm3dAlone, tuning: RestoreTuning) -> Blind:
    """Settings for images without noise, all by this project's kernels."""
    quiet: dict[int, NDArray[np.float32]] = {}

    def attempt(settings: Blind, shown: Shown) -> NDArray[np.float32]:
        if id(shown) not in quiet:
            quiet[id(shown)] = first.denoised(shown.scene.image)
        return settings(quiet[id(shown)])

    return best(_QUIET, tuning.figures(f"{BM3D_THEN} after {first}", _QUIET, attempt, OF_TIPS), OF_TIPS)
