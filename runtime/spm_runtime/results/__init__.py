"""Results and the files that they leave."""

from spm_runtime.results._result import Atoms, Map, ModelReference, Result, Task

__all__ = ["Atoms", "Map", "ModelReference", "Result", "Task"]
