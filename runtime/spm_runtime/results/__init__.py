"""Results and the files that they leave."""

from spm_runtime.results._document import file_sha256, read_document, scan_block
from spm_runtime.results._files import PARTIAL_PREFIX, printable, remove_partial_folders, replacing, write_atomically
from spm_runtime.results._outcome import Outcome
from spm_runtime.results._report import Report, found_in
from spm_runtime.results._result import Atoms, Defects, Map, ModelReference, Result, Task
from spm_runtime.results._save import save_results

__all__ = [
    "PARTIAL_PREFIX",
    "Atoms",
    "Defects",
    "Map",
    "ModelReference",
    "Outcome",
    "Report",
    "Result",
    "Task",
    "file_sha256",
    "found_in",
    "printable",
    "read_document",
    "remove_partial_folders",
    "replacing",
    "save_results",
    "scan_block",
    "write_atomically",
]
