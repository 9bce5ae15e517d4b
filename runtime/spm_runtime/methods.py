"""What a task can be done with: a model package, or a method that needs none and is part of the program."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spm_runtime.errors import ParameterError
from spm_runtime.results import ModelReference, Result
from spm_runtime.scan import Scan

__all__ = ["BuiltInMethod", "Method", "Parameter"]

#: A value may miss its step by this, in steps: numbers are given in decimals.
STEP_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Parameter:
    """A number that the user may change with ``--param NAME=VALUE``.

    Parameters
    ----------
    name, description
        For people.
    default, minimum, maximum
        The range, both ends included.
    step
        Values are the minimum and whole steps from there on; None allows any number.
    """

    name: str
    default: float
    minimum: float
    maximum: float
    description: str
    step: float | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a task can be done with.

    Parameters
    ----------
    name, version, description
        Of a model package, as in its ``rdf.yaml``.
    task
        ``atoms``, ``defects``, ``restore``, ``denoise`` or ``strain``.
    parameters
        User parameters by name.
    known_failures
        Sentences.
    """

    name: str
    version: str
    description: str
    task: str
    parameters: Mapping[str, Parameter]
    known_failures: tuple[str, ...]

    @property
    def reference(self) -> ModelReference:
        """Name, version and hash, as results carry them; without weights the hash is that of name and version."""
        text = f"{self.name} {self.version}"
        return ModelReference(self.name, self.version, hashlib.sha256(text.encode("utf-8")).hexdigest())

    def resolve(self, given: Mapping[str, float] | None) -> dict[str, float]:
        """All parameters with the user's values filled in.

        Raises
        ------
        ParameterError
            If a name is unknown or a value is out of range.
        """
        values = {name: parameter.default for name, parameter in self.parameters.items()}
        for name, value in (given or {}).items():
            if name not in self.parameters:
                raise ParameterError(
                    f"parameter {name!r} is not one of model {self.name}; it has: {', '.join(self.parameters) or 'none'}"
                )
            known = self.parameters[name]
            if not known.minimum <= value <= known.maximum:
                raise ParameterError(
                    f"parameter {name}={value:g} is out of range; model {self.name} takes "
                    f"{known.minimum:g} to {known.maximum:g} (default {known.default:g})"
                )
            if known.step is not None:
                steps = (value - known.minimum) / known.step
                if not math.isclose(steps, round(steps), rel_tol=0.0, abs_tol=STEP_TOLERANCE):
                    raise ParameterError(
                        f"parameter {name}={value:g} is between two values; model {self.name} takes {known.minimum:g}, "
                        f"{known.minimum + known.step:g} … up to {known.maximum:g} (default {known.default:g})"
                    )
            values[name] = float(value)
        return values


@dataclass(frozen=True, kw_only=True)
class BuiltInMethod(Method):
    """A method that is part of the program: no files, no network, no session. Its version changes with what it computes.

    Parameters
    ----------
    run
        From a scan and the values of all parameters to a result.
    self_test
        Computes what is known and returns the largest difference; raises a `ModelIntegrityError` when it is too large.
    """

    run: Callable[[Scan, Mapping[str, float]], Result]
    self_test: Callable[[], float]
