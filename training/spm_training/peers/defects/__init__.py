"""Finders of defects by other methods, to compare with: `make_peers` tunes those that can run here and says why others cannot.

All take their settings from simulated scenes of the validation split (`DefectTuning`), which are kept in a file. Two are
bounds and no competitors: they are told part of the truth.
"""

from spm_training.peers.defects._registry import DefectPeer, Peers, make_peers
from spm_training.peers.defects.tuning import DefectTuning

__all__ = ["DefectPeer", "DefectTuning", "Peers", "make_peers"]
