"""A run folder: what a training was, where it stands and what came out.

========================  =====================================================================================
``recipe.toml``           the recipe as resolved, with the overrides
``run.json``              versions, git commit, device, number of processes, cost
``metrics.jsonl``         one line per epoch
``tensorboard/``          the same as curves, and pictures
``last.pt``               the whole state of the training: `--resume` goes on from it
``best.pt``               the weights of the best validation: what is exported
========================  =====================================================================================
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spm_runtime.errors import ParameterError
from spm_training.cost import Cost
from spm_training.files import write_atomically
from spm_training.recipe import Recipe, read_recipe, to_toml

__all__ = ["RunFolder", "git_commit"]

#: What a resume may change: length, speed and words, nothing that the network learns from.
_FREE = (
    "training.epochs",
    "training.threads",
    "training.checkpoint_every_steps",
    "training.pictures_every_epochs",
    "early_stopping.",
    "data.num_workers",
    "data.cache",
    "parameters.",
    "card.",
    "cpu_gflops",
    "title",
    "data_source",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run.

    Parameters
    ----------
    path
        The folder.
    """

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def last(self) -> Path:
        """The checkpoint of the whole training."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best weights."""
        return self.path / "best.pt"

    @property
    def metrics_file(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def facts_file(self) -> Path:
        """Versions, commit, device and cost."""
        return self.path / "run.json"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    def recipe(self) -> Recipe:
        """The recipe that the run was started with."""
        return read_recipe(self.recipe_file)

    def create(self, recipe: Recipe) -> None:
        """Make the folder for a new run.

        Raises
        ------
        ParameterError
            If a run or anything else is already there.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ParameterError(
                f"--out {self.path}: exists already; expected a new or empty folder. "
                "Add --resume to go on with that run, or choose another folder."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_recipe(recipe)

    def check_resumable(self, recipe: Recipe) -> None:
        """Refuse to go on with a run of another recipe; more epochs and more patience are no other recipe.

        Raises
        ------
        ParameterError
            If there is no run, or its recipe differs.
        """
        if not self.recipe_file.is_file() or not self.last.is_file():
            raise ParameterError(
                f"--resume: {self.path} has no recipe.toml and last.pt; expected a run folder. Start it without --resume."
            )
        before, now = (_comparable(entry) for entry in (self.recipe(), recipe))
        if before != now:
            keys = sorted(key for key in before if before[key] != now.get(key))
            raise ParameterError(
                f"--resume: the recipe of {self.path} differs in {', '.join(keys)}; expected the recipe it was started with "
                f"(only {', '.join(key.rstrip('.') for key in _free(recipe))} may change). Give the same --set, or start anew."
            )

    def write_recipe(self, recipe: Recipe) -> None:
        """Write `recipe_file`."""
        write_atomically(self.recipe_file, to_toml(recipe).encode())

    def write_facts(
        self, cost: Cost, *, device: str, processes: int, start: Mapping[str, object] | None = None
    ) -> None:
        """Write `facts_file`; `start` are the facts of the run whose weights this one began with, kept by a resume."""
        if start is None and self.facts_file.is_file():
            start = self.facts().get("start")
        names = ("adatom", "torch", "numpy", "scipy")
        facts = {
            "versions": {name: importlib.metadata.version(name) for name in names},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "git_commit": git_commit(),
            "device": device,
            "processes": processes,
            "parameters": cost.parameters,
            "flop_per_step": cost.flop_per_step,
            "flop_total_at_most": cost.flop_total,
            "start": None if start is None else dict(start),
        }
        write_atomically(self.facts_file, (json.dumps(facts, indent=2) + "\n").encode())

    def facts(self) -> dict[str, Any]:
        """What `write_facts` wrote."""
        if not self.facts_file.is_file():
            raise ParameterError(f"{self.facts_file}: not found; expected the facts of a run. Give a run folder.")
        return dict(json.loads(self.facts_file.read_text(encoding="utf-8")))

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Add the line of an epoch."""
        with self.metrics_file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, float]]:
        """All lines so far."""
        if not self.metrics_file.is_file():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines()]

    def truncate_metrics(self, epochs: int) -> None:
        """Keep the lines of the first epochs: a killed run may have written one more than it saved."""
        kept = [row for row in self.metrics() if row["epoch"] <= epochs]
        write_atomically(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept).encode())


def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, with ``-dirty`` when files differ; None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _comparable(recipe: Recipe) -> dict[str, object]:
    """The recipe's values by dotted key, without those that a resume may change."""
    values: dict[str, object] = {}
    for key, value in recipe.model_dump().items():
        if isinstance(value, dict):
            values.update({f"{key}.{name}": entry for name, entry in value.items()})
        else:
            values[key] = value
    return {key: value for key, value in values.items() if not key.startswith(_free(recipe))}


def _free(recipe: Recipe) -> tuple[str, ...]:
    """Keys that a resume may change; the length is fixed where the whole schedule follows from it."""
    if recipe.schedule.kind == "cosine":
        return tuple(key for key in _FREE if key != "training.epochs")
    return _FREE
