"""The list of the peers, and what each needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spm_training.defects.evaluate import Finder, Oracle
from spm_training.peers.defects.look import AnomalyMap
from spm_training.peers.defects.maps import IsolationScore, NotchLog, PcaError
from spm_training.peers.defects.oracles import feature_forest, tuned_matched_filter
from spm_training.peers.defects.tuning import DefectTuning, tuned_finder
from spm_training.peers.defects.ucl import missing_runs, report_pipeline

__all__ = ["DefectPeer", "Peers", "make_peers"]

UCL = "UCL pipeline, as printed"
MATCHED = "matched filter"
FOREST = "forest on features"

_GRIDS: dict[str, tuple[str, Sequence[AnomalyMap]]] = {
    "lattice notch + LoG": (
        "Bragg peaks suppressed in the spectrum, Laplacians of the magnitude of the rest",
        tuple(NotchLog(factor, smoothing) for factor, smoothing in ((6.0, 0.0), (20.0, 0.0), (60.0, 0.0), (20.0, 0.1))),
    ),
    "PCA of patches": (
        "squared error of windows rebuilt from their principal components",
        tuple(PcaError(*row) for row in ((8, 2, 1.0), (8, 4, 1.0), (8, 4, 2.0), (16, 4, 2.0), (16, 8, 2.0))),
    ),
    "isolation forest": (
        "windows that few cuts tell from the others of the image",
        tuple(IsolationScore(*row) for row in ((8, 4), (8, 12), (16, 8))),
    ),
}


@dataclass(frozen=True)
class DefectPeer:
    """What tables say of a peer.

    Parameters
    ----------
    name, description
        Name, and one line.
    places, classes
        Whether its places and its classes are its own; what is not is left out of the tables.
    empty
        Whether surfaces without defects say anything of it.
    """

    name: str
    description: str
    places: bool = True
    classes: bool = False
    empty: bool = True


class Peers(NamedTuple):
    """The peers that can run here.

    Parameters
    ----------
    described
        All of them, in the order of the tables.
    finders, oracles
        By name.
    missing
        Why the others cannot run, by name.
    """

    described: list[DefectPeer]
    finders: dict[str, Finder]
    oracles: dict[str, Oracle]
    missing: dict[str, str]


def make_peers(tuning: DefectTuning) -> Peers:
    """Tune all peers, or take their settings from the cache.

    Raises
    ------
    ParameterError
        If the cache, or a run of the report's networks, cannot be used.
    """
    described: list[DefectPeer] = []
    finders: dict[str, Finder] = {}
    for name, (description, grid) in _GRIDS.items():
        for terraces in (False, True):
            full = f"{name}, steps masked" if terraces else name
            steps = "steps found and terraces levelled by this project" if terraces else "plane and row medians"
            tuning.report(f"settings of {full}")
            finders[full] = tuned_finder(full, grid, tuning, terraces=terraces)
            described.append(DefectPeer(full, f"{description}; {steps}"))
    missing = {}
    lacking = missing_runs(tuning.runs)
    if lacking:
        missing[UCL] = f"its networks are not there; train them first: `{'`, `'.join(lacking)}`"
    else:
        tuning.report(f"settings of {UCL}")
        finders[UCL] = report_pipeline(tuning)
        described.append(
            DefectPeer(
                UCL,
                "both autoencoders of the report, its clusters, mask and classes; nothing is known of steps",
                classes=True,
            )
        )
    oracles: dict[str, Oracle] = {MATCHED: tuned_matched_filter(tuning), FOREST: feature_forest(tuning)}
    described += [
        DefectPeer(MATCHED, "told the steps, the lattice and the picture of every defect: a bound", empty=False),
        DefectPeer(
            FOREST, "told the true places; random forest on hand-made features: a bound", places=False, classes=True
        ),
    ]
    return Peers(described, finders, oracles, missing)
