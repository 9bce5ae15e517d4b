"""Every error that Adatom raises on purpose.

The tree::

    AdatomError                 anything below; the message is written for a person
    ├── ScanError               a scan file cannot be used
    │   ├── CannotOpenError     it, or a file it needs beside it, is not there or locked: that may pass
    │   ├── UnknownFormatError  no reader recognises the content
    │   ├── CorruptScanError    a reader recognises the file and cannot read it whole
    │   ├── ChannelError        the file has no such channel, direction or frame
    │   └── MissingExtraError   the reader needs a package that is not installed
    ├── ModelError              a model package cannot be used
    │   └── ModelIntegrityError its hash, graph or test output is not what the package promises
    ├── DeviceError             the execution provider that was asked for does not run
    ├── OutputError             the results cannot be written where they were asked for
    └── ParameterError          a parameter is unknown or out of range

Each message names the file (or the setting), what was seen, what was expected and the remedy.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "AdatomError",
    "CannotOpenError",
    "ChannelError",
    "CorruptScanError",
    "DeviceError",
    "MissingExtraError",
    "ModelError",
    "ModelIntegrityError",
    "OutputError",
    "ParameterError",
    "ScanError",
    "UnknownFormatError",
]


class AdatomError(Exception):
    """Base of all errors raised on purpose; catch this one to go on with the next scan."""


class ScanError(AdatomError):
    """A scan file cannot be used; unless a subclass says otherwise, it never will be.

    Parameters
    ----------
    path
        The file.
    seen
        What was found in it.
    expected
        What a usable file holds.
    remedy
        What the user can do.
    """

    def __init__(self, path: Path | str, seen: str, expected: str, remedy: str) -> None:
        self.path = Path(path)
        self.seen = seen
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"{self.path}: {seen}; expected {expected}. {remedy}")

    def __reduce__(self) -> tuple[type[ScanError], tuple[Path, str, str, str]]:
        """Pickle by the constructor's arguments: errors cross process borders."""
        return type(self), (self.path, self.seen, self.expected, self.remedy)


class CannotOpenError(ScanError):
    """A file is not there, locked by another program or may not be read: it may go well later, the file unchanged."""


class UnknownFormatError(ScanError):
    """No reader recognises the content of the file."""


class CorruptScanError(ScanError):
    """A reader recognises the file and cannot read it whole: truncated, damaged, or a lying header."""


class ChannelError(ScanError):
    """The file has no such channel, direction or frame."""


class MissingExtraError(ScanError):
    """The reader of this format needs a package that the base install does not bring."""


class ModelError(AdatomError):
    """A model package cannot be used."""


class ModelIntegrityError(ModelError):
    """Hash, graph or test output of a model package is not what the package promises."""


class DeviceError(AdatomError):
    """The execution provider that was asked for does not run on this machine."""


class OutputError(AdatomError):
    """The results cannot be written where they were asked for."""


class ParameterError(AdatomError):
    """A parameter is unknown, of the wrong type or out of range."""
