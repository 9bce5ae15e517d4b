"""Finders of atoms by other people, to compare with: `available_peers` says which can run here, and why the others cannot.

Every peer gives what `spm_training.atoms.evaluate.Finder` says. The tuned ones take their settings from simulated scenes of the
validation split (`Tuning`) and their scale from the power spectrum (`fft_spacing_px`), unless their description says otherwise;
those at library defaults are marked so. `spm_training.peers.same_map` compares detectors on one confidence map.

>>> peers, missing = available_peers()
>>> finder = peers[0].make(Tuning(spacing_px=(4.0, 30.0)))  # doctest: +SKIP
"""

from spm_training.peers._registry import PEERS, available_peers
from spm_training.peers.scale import fft_spacing_px
from spm_training.peers.tuning import Look, Peer, Tuning

__all__ = ["PEERS", "Look", "Peer", "Tuning", "available_peers", "fft_spacing_px"]
