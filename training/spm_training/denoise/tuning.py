"""Settings of the classical denoisers, tuned on images of the validation split, and kept in a file.

Every level of noise of the lattices, and of the surfaces, has settings of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_training.data import Split
from spm_training.denoise.evaluate import ByLevel
from spm_training.denoise.scenes import DENOISE_SEED, SETTINGS, SURFACES, DenoiseOptions
from spm_training.files import write_atomically
from spm_training.peers.denoise import Denoiser, available, tuned
from spm_training.simulate.stm_lattices import LATTICES, NOISE_LEVELS

__all__ = ["DenoisePeers", "DenoiseTuning", "make_peers"]

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def _silent(_: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class DenoisePeers:
    """The peers that can run here.

    Parameters
    ----------
    methods
        Tuned, by name.
    missing
        Why others were not run, by name.
    """

    methods: Mapping[str, ByLevel] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DenoiseTuning:
    """Where the peers take their settings from.

    Parameters
    ----------
    options
        How many images of which lattices and size; they are those of the validation split.
    cache
        JSON file of the settings that were found; None for none.
    report
        Takes a line now and then.
    surfaces
        How many images of surfaces, of the same size.
    """

    options: DenoiseOptions = field(
        default_factory=lambda: DenoiseOptions(images=1, side_px=128, names=tuple(LATTICES))
    )
    cache: Path | None = Path("runs/peers/denoise.json")
    report: Callable[[str], object] = _silent
    surfaces: int = 5

    def options_of(self, setting: str) -> DenoiseOptions:
        """The images for one of `SETTINGS`."""
        if setting in NOISE_LEVELS:
            return self.options
        return dataclasses.replace(self.options, images=self.surfaces, names=(SURFACES,))

    @cached_property
    def pairs(self) -> Mapping[str, list[Pair]]:
        """Noisy and clean images by setting."""
        return {
            setting: [
                (one.scene.image, one.scene.clean)
                for one in self.options_of(setting).shown(setting.partition(",")[0], Split.VALIDATION)
            ]
            for setting in SETTINGS
        }

    def best(self, name: str, candidates: Sequence[Denoiser], setting: str) -> Denoiser:
        """The candidate with the highest mean PSNR.

        Parameters
        ----------
        name
            Of the peer, for the cache.
        candidates
            Settings, told apart by what ``str`` says of them.
        setting
            One of `SETTINGS`.

        Raises
        ------
        ParameterError
            If the file of settings cannot be read.
        """
        by_words = {str(one): one for one in candidates}
        key = self._key(name, list(by_words), setting)
        known = _read(self.cache)
        if known.get(key) in by_words:
            return by_words[known[key]]
        self.report(f"settings of {name}, noise {setting}: {len(candidates)} to try")
        found = tuned(candidates, self.pairs[setting])
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**_read(self.cache), key: str(found)}, indent=2)
            write_atomically(self.cache, (text + "\n").encode())
        return found

    def _key(self, name: str, candidates: Sequence[str], setting: str) -> str:
        """Changes with everything that the choice depends on, but for the code."""
        noise = dataclasses.asdict(NOISE_LEVELS[setting]) if setting in NOISE_LEVELS else setting
        what = [name, dataclasses.asdict(self.options_of(setting)), DENOISE_SEED, noise, list(candidates)]
        return f"{name}, {setting} {hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"


def make_peers(tuning: DenoiseTuning) -> DenoisePeers:
    """All peers that can run in this environment, tuned for every one of `SETTINGS`."""
    there, missing = available()
    methods = {
        name: {setting: tuning.best(name, candidates, setting) for setting in SETTINGS}
        for name, candidates in there.items()
    }
    return DenoisePeers(methods, missing)


def _read(cache: Path | None) -> dict[str, str]:
    """What is known; nothing where there is no file yet."""
    if cache is None or not cache.is_file():
        return {}
    try:
        found: dict[str, str] = json.loads(cache.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ParameterError(
            f"{cache}: no JSON ({error}); expected the settings of the peers. Remove the file: they are tuned again."
        ) from error
    return found
