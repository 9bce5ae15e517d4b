"""What can be trained: one task per kind of network.

To add one: give its ``[network]`` table a model with a ``kind`` of its own in `spm_training.recipe`, write the network and a
class that fulfils `Task`, and name both in `_TASKS`.
"""

from __future__ import annotations

from typing import Any

from spm_training.recipe import Recipe
from spm_training.tasks._task import Batch, Task, stacked
from spm_training.tasks.atomid import AtomidTask
from spm_training.tasks.atoms import AtomsTask
from spm_training.tasks.denoise import CaeTask, DenoiserTask
from spm_training.tasks.finder import FinderTask
from spm_training.tasks.judge import JudgeTask
from spm_training.tasks.patches import Ae1Task, Ae2Task
from spm_training.tasks.restorer import RestorerTask
from spm_training.tasks.scale import ScaleTask
from spm_training.tasks.tip import TipTask

__all__ = ["Batch", "Task", "stacked", "task_of"]

_TASKS: dict[str, type[Task[Any, Any]]] = {
    "atoms": AtomsTask,
    "atomid": AtomidTask,
    "scale": ScaleTask,
    "finder": FinderTask,
    "ae1": Ae1Task,
    "ae2": Ae2Task,
    "tip": TipTask,
    "judge": JudgeTask,
    "restorer": RestorerTask,
    "tip1": RestorerTask,
    "tip2": RestorerTask,
    "tip3": RestorerTask,
    "denoiser": DenoiserTask,
    "cae-a": CaeTask,
    "cae-b": CaeTask,
    "cae-twin": CaeTask,
    "cae-vae": CaeTask,
}


def task_of(recipe: Recipe) -> Task[Any, Any]:
    """The task that trains the network of a recipe."""
    return _TASKS[recipe.network.kind](recipe)
