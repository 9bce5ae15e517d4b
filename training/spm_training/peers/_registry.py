"""The list of peers, and what each needs."""

from __future__ import annotations

from spm_training.atoms.evaluate import Finder
from spm_training.peers.atomai_peer import REMEDY as ATOMAI_REMEDY
from spm_training.peers.atomai_peer import blind_atomai_finder, scaled_atomai_finder
from spm_training.peers.atomap_peer import REMEDY as ATOMAP_REMEDY
from spm_training.peers.atomap_peer import tuned_atomap_finder
from spm_training.peers.blob_fft import tuned_blob_finder
from spm_training.peers.library_defaults import default_blob_finder
from spm_training.peers.optional import is_installed
from spm_training.peers.trackpy_peer import REMEDY as TRACKPY_REMEDY
from spm_training.peers.trackpy_peer import default_trackpy_finder, tuned_trackpy_finder
from spm_training.peers.tuning import Peer, Tuning

__all__ = ["PEERS", "available_peers"]


def _log(tuning: Tuning) -> Finder:
    return tuned_blob_finder("log", tuning)


def _dog(tuning: Tuning) -> Finder:
    return tuned_blob_finder("dog", tuning)


#: Every peer that this project can run, in the order of the tables.
PEERS: tuple[Peer, ...] = (
    Peer("LoG + FFT scale", True, "maxima of the Laplacian of Gaussian (scipy); scale from the spectrum", _log),
    Peer("DoG + FFT scale", True, "maxima of the difference of Gaussians (scipy); scale from the spectrum", _dog),
    Peer(
        "Atomap + FFT scale",
        True,
        "get_atom_positions, centre of mass and 2-D Gaussians; separation from the spectrum",
        tuned_atomap_finder,
    ),
    Peer("trackpy + FFT scale", True, "locate; lengths from the spectrum", tuned_trackpy_finder),
    Peer(
        "AtomAI net, blind",
        True,
        "AtomAI's U-Net retrained on this simulator, images as they are; threshold tuned",
        blind_atomai_finder,
    ),
    Peer(
        "AtomAI net + FFT scale",
        True,
        "the same network, images resampled to the middle of its training by the spectrum; threshold tuned",
        scaled_atomai_finder,
    ),
    Peer("LoG, library defaults", False, "skimage.feature.blob_log as it comes", lambda _: default_blob_finder("log")),
    Peer("DoG, library defaults", False, "skimage.feature.blob_dog as it comes", lambda _: default_blob_finder("dog")),
    Peer(
        "trackpy, library defaults",
        False,
        "locate as it comes, diameter 11 as in its walk-through",
        lambda _: default_trackpy_finder(),
    ),
)

#: Package and remedy by the first word of a peer's name.
_NEEDS = {
    "Atomap": ("atomap", ATOMAP_REMEDY),
    "trackpy": ("trackpy", TRACKPY_REMEDY),
    "AtomAI": ("atomai", ATOMAI_REMEDY),
}

#: Peers of the paper's table that no installation here can bring.
_NEVER = {
    "FindFoci": "a plugin of ImageJ (Java, GDSC plugins) that is not on PyPI; its numbers are quoted from the paper",
    "AtomSegNet": "not on PyPI, and its weights are not distributed with this project; its numbers are quoted from the paper",
}


def available_peers() -> tuple[list[Peer], dict[str, str]]:
    """The peers that can run in this environment, and why the others cannot.

    Returns
    -------
    The peers in the order of the tables, and the reason by name of each that is missing.
    """
    there, missing = [], {}
    for peer in PEERS:
        package, remedy = _NEEDS.get(peer.name.replace(",", " ").split()[0], ("skimage", ""))
        if is_installed(package):
            there.append(peer)
        else:
            missing[peer.name] = f"{package} is not installed: {remedy}"
    return there, {**missing, **_NEVER}
