"""Files that are written whole or not at all."""

from spm_runtime.results import replacing, write_atomically

__all__ = ["replacing", "write_atomically"]
