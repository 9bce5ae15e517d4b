"""From a scan to a result: one module for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from spm_runtime.errors import ModelError, ParameterError
from spm_runtime.models import ModelPackage, default_model, find_model
from spm_runtime.pipelines.atoms import find_atoms
from spm_runtime.pipelines.defects import find_defects
from spm_runtime.results import Result, Task
from spm_runtime.scan import Scan
from spm_runtime.session import Device, Session, shared_session

__all__ = ["PIPELINES", "analyse"]

#: The tasks that this version can do.
PIPELINES: Mapping[Task, Callable[[Scan, ModelPackage, Session, Mapping[str, float]], Result]] = MappingProxyType(
    {"atoms": find_atoms, "defects": find_defects}
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
        ``atoms`` or ``defects``.
    model
        Name or folder of a model package; the one named after the task when None.
    device
        ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
    require_gpu
        Fail where ``auto`` would take the CPU.
    params
        Model parameters by name; the package's defaults fill the rest.

    Returns
    -------
    Result

    Raises
    ------
    ParameterError
        If the task or a parameter is unknown, or a value out of range.
    ModelError
        If the model is missing, damaged, or made for another task.
    DeviceError
        If the execution provider that was asked for does not run.
    """
    if task not in PIPELINES:
        raise ParameterError(f"task {task!r} is not available in this version; it has: {', '.join(PIPELINES)}")
    package = default_model(task) if model is None else find_model(model)
    if package.task != task:
        raise ModelError(
            f"{package.folder}: model {package.name} is made for the task {package.task!r}, expected {task!r}. "
            "Choose another --model or --task."
        )
    values = package.resolve(params)
    session = shared_session(package, device, require_gpu=require_gpu)
    return PIPELINES[task](scan, package, session, values)
