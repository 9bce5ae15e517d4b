"""What a selection study decides, in words and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spm_training.studies.selection import Choice, Trial

__all__ = ["Decision", "by_numbers", "numbers_of", "row_numbers", "winners", "words_of"]

_NAMES = {"silhouette": "the silhouette", "davies_bouldin": "Davies–Bouldin", "aic": "AIC", "bic": "BIC"}


@dataclass(frozen=True, eq=False)
class Decision:
    """The trials of one stage and what was chosen.

    Parameters
    ----------
    trials
        All of them, on the same points.
    printed
        The one with the printed settings.
    choice
        What `spm_training.studies.selection.choose` says.
    """

    trials: Sequence[Trial]
    printed: Trial
    choice: Choice


def winners(trials: Sequence[Trial], names: Sequence[str]) -> list[Trial]:
    """The best trial by each number."""
    found = []
    for name in names:
        sign = -1.0 if name == "silhouette" else 1.0
        values = [sign * _number(trial, name) for trial in trials]
        found.append(trials[int(np.nanargmin(values)) if not np.all(np.isnan(values)) else 0])
    return found


def _number(trial: Trial, name: str) -> float:
    return trial.criteria[name] if name in trial.criteria else float(getattr(trial, name))


def by_numbers(trials: Sequence[Trial], names: Sequence[str]) -> str:
    """Which trial each number prefers, as a sentence."""
    best = zip(names, winners(trials, names), strict=True)
    return "Without the truth: " + "; ".join(f"{_NAMES[name]} is best at {trial.name}" for name, trial in best) + "."


def words_of(decision: Decision, truth: str) -> str:
    """The recommendation as a sentence; `truth` names the V-measure that decided."""
    choice, printed = decision.choice, decision.printed
    gain = f"{choice.gain[0]:+.3f} ({choice.gain[1]:+.3f} to {choice.gain[2]:+.3f})"
    if choice.candidate is printed:
        return (
            f"{printed.name}, as printed, has the highest V-measure against {truth} ({printed.v_measures[truth]:.3f})."
        )
    if choice.best is printed:
        return (
            f"{printed.name}, as printed: V-measure {printed.v_measures[truth]:.3f} against {truth}; {choice.candidate.name}, "
            f"the best of one half of the images, changes it by {gain} on the other half."
        )
    return (
        f"{choice.best.name} in place of the printed {printed.name}: V-measure {choice.best.v_measures[truth]:.3f} against "
        f"{truth}, not {printed.v_measures[truth]:.3f}; {gain} on images that had no say in choosing it."
    )


def numbers_of(decision: Decision) -> dict[str, object]:
    """The decision and all trials for JSON."""
    return {
        "recommended": dict(decision.choice.best.settings),
        "printed": dict(decision.printed.settings),
        "gain_of_candidate": list(decision.choice.gain),
        "candidate": dict(decision.choice.candidate.settings),
        "trials": [row_numbers(trial) for trial in decision.trials],
    }


def row_numbers(trial: Trial) -> dict[str, object]:
    """A trial for JSON, without its labels."""
    return {
        "method": trial.method,
        **trial.settings,
        "clusters": trial.clusters,
        "noise_share": trial.noise_share,
        "silhouette": trial.silhouette,
        "davies_bouldin": trial.davies_bouldin,
        "converged": trial.converged,
        **trial.criteria,
        "v_measures": dict(trial.v_measures),
    }
