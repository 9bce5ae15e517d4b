"""How the peers get their settings: the highest mean PSNR on scenes of the validation split.

What was found is kept in a JSON file, under a key that changes with scenes and candidates: a second evaluation starts at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_training.files import write_atomically
from spm_training.restore.metrics import inner, psnr, register
from spm_training.restore.scenes import RestoreOptions, Shown, validation_scenes
from spm_training.simulate.tips import FAMILIES

__all__ = ["OF_TIPS", "Figures", "RestoreTuning", "best"]

#: Families that a tip makes: what blind estimation is for, so that only these choose its settings.
OF_TIPS = tuple(family for family in FAMILIES if family != "convolution")

#: Mean PSNR in dB by family, by candidate.
Figures = Mapping[str, Mapping[str, float]]
Candidate = TypeVar("Candidate")
#: Heights of a candidate for a scene, both in nanometres.
Attempt = Callable[[Candidate, Shown], NDArray[np.floating]]


def _silent(_: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class RestoreTuning:
    """Where the peers take their settings from.

    Parameters
    ----------
    options
        How many scenes of which families and size.
    cache
        JSON file of the figures that were found; None for none.
    report
        Takes a line now and then.
    """

    options: RestoreOptions = field(default_factory=lambda: RestoreOptions(images=4))
    cache: Path | None = Path("runs/peers/restore.json")
    report: Callable[[str], object] = _silent

    @cached_property
    def shown(self) -> tuple[Shown, ...]:
        """The scenes."""
        return tuple(validation_scenes(self.options))

    def figures(
        self,
        name: str,
        candidates: Sequence[Candidate],
        attempt: Attempt[Candidate],
        families: Sequence[str] = FAMILIES,
    ) -> Figures:
        """What every candidate reaches: its mean PSNR in each family, registered in the family ``hackathon``.

        Parameters
        ----------
        name
            Of the peer, for the cache.
        candidates
            Settings, told apart by what ``str`` says of them.
        attempt
            Restores a scene with a candidate.
        families
            The families that are tried.
        """
        key = self._key(name, [str(one) for one in candidates], families)
        known = _read(self.cache)
        if key in known:
            return known[key]
        self.report(f"settings of {name}: {len(candidates)} to try")
        found: dict[str, dict[str, float]] = {}
        chosen = [one for one in self.shown if one.group in families]
        for candidate in candidates:
            values: dict[str, list[float]] = {family: [] for family in families}
            for shown in chosen:
                values[shown.group].append(_fair_psnr(attempt(candidate, shown), shown))
            found[str(candidate)] = {family: float(np.mean(every)) for family, every in values.items() if every}
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**_read(self.cache), key: found}, indent=2)
            write_atomically(self.cache, (text + "\n").encode())
        return found

    def _key(self, name: str, candidates: Sequence[str], families: Sequence[str]) -> str:
        """Changes with everything that the figures depend on, but for the code."""
        what = [name, dataclasses.asdict(self.options), list(candidates), list(families)]
        return f"{name} {hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"


def best(candidates: Sequence[Candidate], figures: Figures, families: Sequence[str]) -> Candidate:
    """The candidate with the highest mean over families, the first of equals; families without figures do not count."""

    def mean(candidate: Candidate) -> float:
        known = figures[str(candidate)]
        return float(np.mean([known[family] for family in families if family in known]))

    return max(candidates, key=mean)


def _fair_psnr(heights: NDArray[np.floating], shown: Shown) -> float:
    clean = shown.scene.clean.astype(np.float64)
    truth = np.asarray(inner(clean))
    if shown.group == "hackathon":
        return psnr(register(heights, clean).image, truth, float(np.ptp(truth)))
    return psnr(np.asarray(inner(np.asarray(heights, np.float64))), truth, float(np.ptp(truth)))


def _read(cache: Path | None) -> dict[str, dict[str, dict[str, float]]]:
    """What is known; nothing where there is no file yet."""
    if cache is None or not cache.is_file():
        return {}
    try:
        found: dict[str, dict[str, dict[str, float]]] = json.loads(cache.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ParameterError(
            f"{cache}: no JSON ({error}); expected the settings of the peers. Remove the file: they are tuned again."
        ) from error
    return found
