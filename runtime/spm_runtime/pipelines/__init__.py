"""From a scan to a result: one module for each task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from spm_runtime.errors import DeviceError, ModelError, ParameterError
from spm_runtime.methods import BuiltInMethod
from spm_runtime.models import ModelPackage, default_model, find_model, list_models
from spm_runtime.pipelines.atoms import find_atoms
from spm_runtime.pipelines.defects import find_defects
from spm_runtime.pipelines.denoise import denoise_scan
from spm_runtime.pipelines.restore import restore_surface
from spm_runtime.pipelines.tip_classical import CLASSICAL
from spm_runtime.results import Result, Task
from spm_runtime.scan import Scan
from spm_runtime.session import Device, Session, shared_session

__all__ = ["BUILT_IN", "PIPELINES", "analyse", "find_method", "prepare"]

#: The tasks that this version can do, with a model package.
PIPELINES: Mapping[Task, Callable[[Scan, ModelPackage, Session, Mapping[str, float]], Result]] = MappingProxyType(
    {"atoms": find_atoms, "defects": find_defects, "restore": restore_surface, "denoise": denoise_scan}
)

#: Methods without a model package, by name. No package is found by one of these names.
BUILT_IN: Mapping[str, BuiltInMethod] = MappingProxyType({CLASSICAL.name: CLASSICAL})


def find_method(task: str | None, model: str | Path | None = None) -> ModelPackage | BuiltInMethod:
    """What a task is done with.

    Parameters
    ----------
    task
        The task; needed where no model is given.
    model
        Name of a built-in method, or name or folder of a model package. None takes the package that is named after the task and,
        where that is not installed, a built-in method for it.

    Returns
    -------
    ModelPackage or BuiltInMethod
        Perhaps one for another task, where a model is given.

    Raises
    ------
    ModelError
        If there is none.
    """
    if model is not None:
        built_in = BUILT_IN.get(str(model))
        return find_model(model) if built_in is None else built_in
    fitting = [method for method in BUILT_IN.values() if method.task == task]
    if fitting and not any(folder.name == task for folder in list_models()):
        return fitting[0]
    return default_model(str(task))


def prepare(method: ModelPackage | BuiltInMethod, device: Device, *, require_gpu: bool) -> None:
    """Load what a method needs before it can run, once per process.

    Raises
    ------
    ModelError
        If the model is damaged.
    DeviceError
        If the execution provider that was asked for does not run.
    """
    if isinstance(method, ModelPackage):
        shared_session(method, device, require_gpu=require_gpu)
    elif require_gpu:
        raise DeviceError(
            f"a GPU is required, and model {method.name} has no network that runs on one; leave --require-gpu out, or "
            "choose another --model"
        )


def analyse(
    scan: Scan,
    task: Task,
    *,
    model: str | Path | None = None,
    device: Device = "auto",
    require_gpu: bool = False,
    params: Mapping[str, float] | None = None,
) -> Result:
    """Run one task on one scan.

    Parameters
    ----------
    scan
        As `spm_runtime.open` returns it.
    task
        ``atoms``, ``defects``, ``restore`` or ``denoise``.
    model
        Name or folder of a model package; the one named after the task when None. ``classical`` restores without a network.
    device
        ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
    require_gpu
        Fail where ``auto`` would take the CPU.
    params
        Model parameters by name; the defaults fill the rest.

    Returns
    -------
    Result

    Raises
    ------
    ParameterError
        If the task or a parameter is unknown, a value out of range, or the scan is nothing for the task.
    ModelError
        If the model is missing, damaged, or made for another task.
    DeviceError
        If the execution provider that was asked for does not run.
    """
    if task not in PIPELINES:
        raise ParameterError(f"task {task!r} is not available in this version; it has: {', '.join(PIPELINES)}")
    method = find_method(task, model)
    if method.task != task:
        place = f"{method.folder}: " if isinstance(method, ModelPackage) else ""
        raise ModelError(
            f"{place}model {method.name} is made for the task {method.task!r}, expected {task!r}. "
            "Choose another --model or --task."
        )
    values = method.resolve(params)
    prepare(method, device, require_gpu=require_gpu)
    if isinstance(method, ModelPackage):
        return PIPELINES[task](scan, method, shared_session(method, device, require_gpu=require_gpu), values)
    result = method.run(scan, values)
    if model is not None:
        return result
    said = f"the model package {method.task!r} is not installed: done without a network (--model {method.name})"
    return dataclasses.replace(result, warnings=(said, *result.warnings))
