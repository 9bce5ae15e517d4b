"""What a user asks of `spm-infer run` and `spm-infer watch`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spm_runtime._version import __version__
from spm_runtime.errors import ParameterError
from spm_runtime.methods import BuiltInMethod
from spm_runtime.models import ModelPackage, list_models
from spm_runtime.pipelines import BUILT_IN, PIPELINES, find_method
from spm_runtime.results import Task
from spm_runtime.scan import Modality

if TYPE_CHECKING:
    from spm_runtime.session import Device

__all__ = ["Settings", "check_settings", "fingerprint"]

#: What is looked for unless the user says otherwise, as far as this version can do it.
DEFAULT_TASKS: Mapping[Modality, tuple[Task, ...]] = {
    "stem": ("atoms",),
    "stm": ("defects", "atoms"),
    "afm": ("restore",),
    "unknown": ("atoms",),
}


@dataclass(frozen=True)
class Settings:
    """What a user asks for.

    Parameters
    ----------
    tasks
        What to look for; by modality when empty.
    model
        Name or folder of a model package, or name of a built-in method; the package named after the task when None. Without
        `tasks` it says what to look for.
    device
        ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
    require_gpu
        Fail rather than run on the CPU.
    channel
        Channel to analyse, case ignored; the reader's first one when None.
    pixel_size_nm
        Pixel size in place of the file's own, in nanometres.
    params
        Model parameters that differ from their defaults; of several models, each takes those that it has.
    jobs
        How many scans are analysed at once, each in a process of its own.
    gwy
        Whether to write all maps of a scan into one Gwyddion file too.

    Raises
    ------
    ParameterError
        If a task is unknown or not available yet, or a number is out of range. A task that is given twice counts once.
    """

    tasks: tuple[Task, ...] = ()
    model: str | Path | None = None
    device: Device = "auto"
    require_gpu: bool = False
    channel: str | None = None
    pixel_size_nm: float | None = None
    params: Mapping[str, float] = field(default_factory=dict)
    jobs: int = 1
    gwy: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(self.tasks)))
        object.__setattr__(self, "params", dict(self.params))
        for task in self.tasks:
            if task not in PIPELINES:
                raise ParameterError(f"--task {task}: not available; this version has: {', '.join(PIPELINES)}")
        if self.pixel_size_nm is not None and not 0 < self.pixel_size_nm < float("inf"):
            raise ParameterError(f"--pixel-size-nm {self.pixel_size_nm}: expected a length above 0 nm")
        if self.jobs < 1:
            raise ParameterError(f"--jobs {self.jobs}: expected 1 or more")

    def tasks_for(self, modality: Modality) -> tuple[Task, ...]:
        """The tasks for a scan of this modality.

        Those that the user names; else the one that the user's model is made for; else the modality's own, without those that
        nothing is installed for where others are left. None when its default has no pipeline yet.

        Raises
        ------
        ModelError
            If the user's model is not there.
        ParameterError
            If it is made for a task that this version cannot do.
        """
        if self.tasks:
            return self.tasks
        if self.model is not None:
            method = find_method(None, self.model)
            # Spelled out for the type checker: what a package says of itself may be anything.
            tasks = tuple(task for task in PIPELINES if task == method.task)
            if not tasks:
                raise ParameterError(
                    f"--model {self.model}: made for the task {method.task!r}, which is not available; this version has: "
                    f"{', '.join(PIPELINES)}"
                )
            return tasks
        able = tuple(task for task in DEFAULT_TASKS[modality] if task in PIPELINES)
        installed = {folder.name for folder in list_models()} | {method.task for method in BUILT_IN.values()}
        return tuple(task for task in able if task in installed) or able

    @property
    def possible_tasks(self) -> tuple[Task, ...]:
        """Every task that some scan may be analysed for."""
        wanted = {task for modality in DEFAULT_TASKS for task in self.tasks_for(modality)}
        return tuple(task for task in PIPELINES if task in wanted)

    def params_for(self, task: Task) -> dict[str, float]:
        """The user's parameters, without those that only the models of the other tasks have.

        One that no model has is kept: `Method.resolve` refuses it.
        """
        if not self.params:
            return {}
        own = self.method(task).parameters
        others = {name for other in self.possible_tasks if other != task for name in self.method(other).parameters}
        return {name: value for name, value in self.params.items() if name in own or name not in others}

    def method(self, task: Task) -> ModelPackage | BuiltInMethod:
        """The model package or built-in method for a task.

        Raises
        ------
        ModelError
            If it is not there.
        """
        return find_method(task, self.model)


def check_settings(settings: Settings) -> None:
    """Refuse what would make every scan fail, before the first one is opened.

    Raises
    ------
    ModelError
        If a model package is not there or not readable.
    ParameterError
        If a model has no such parameter, or a value is out of its range.
    """
    for task in settings.possible_tasks:
        settings.method(task).resolve(settings.params_for(task))


def fingerprint(settings: Settings) -> str:
    """SHA-256 of everything that a result depends on besides the content of the scan: models, parameters, version.

    Raises
    ------
    ModelError, ParameterError
        As `check_settings`.
    """
    methods = {task: settings.method(task) for task in settings.possible_tasks}
    facts = {
        "version": __version__,
        "tasks": list(settings.tasks),
        "channel": settings.channel,
        "pixel_size_nm": settings.pixel_size_nm,
        "gwy": settings.gwy,
        "models": {task: method.reference.sha256 for task, method in methods.items()},
        "parameters": {task: dict(method.resolve(settings.params_for(task))) for task, method in methods.items()},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8")).hexdigest()
