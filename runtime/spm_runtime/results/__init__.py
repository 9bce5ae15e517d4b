"""Results and the files that they leave."""

from spm_runtime.results._document import read_document
from spm_runtime.results._result import Atoms, Map, ModelReference, Result, Task
from spm_runtime.results._save import save_results

__all__ = ["Atoms", "Map", "ModelReference", "Result", "Task", "read_document", "save_results"]
