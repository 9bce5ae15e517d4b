"""Restorers by other methods, to compare with: `make_peers` tunes those that can run here and says why others cannot.

All take their settings from simulated scenes of the validation split (`RestoreTuning`), which are kept in a file. Some are bounds
and no competitors: they are told part of the truth.
"""

from spm_training.peers.restore._registry import DETAILED, GWYDDION_BLIND, Peers, RestorePeer, make_peers
from spm_training.peers.restore.tuning import RestoreTuning

__all__ = ["DETAILED", "GWYDDION_BLIND", "Peers", "RestorePeer", "RestoreTuning", "make_peers"]
