"""Recipes: everything that decides a training, as frozen models read from TOML.

A recipe is found by its name (those shipped in ``spm_training/recipes``) or by the path of a ``.toml`` file. Its table
``[smoke]`` holds overrides of the same shape, applied by ``--smoke``; ``--set KEY=VALUE`` comes last. A run keeps the
resolved recipe, so that resuming and exporting never look at the shipped one again.

The tables ``[network]`` and ``[schedule]`` name their ``kind``, which decides what else they may hold: an override of the
kind starts the table anew.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from spm_runtime.errors import ParameterError
from spm_training.simulate.columns import FAMILIES

__all__ = [
    "AtomidNetworkOptions",
    "AtomsNetworkOptions",
    "CosineOptions",
    "NetworkOptions",
    "PlateauOptions",
    "Recipe",
    "ScheduleOptions",
    "StepOptions",
    "load_recipe",
    "read_recipe",
    "recipe_names",
    "to_toml",
]

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class _Options(BaseModel):
    # extra="forbid": a misspelt key is an error, never ignored. strict=False lets 1 stand for 1.0.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class AtomsNetworkOptions(_Options):
    """Options of `spm_training.networks.atoms.AtomsNet`."""

    kind: Literal["atoms"] = "atoms"
    base_width: Count = 16
    depth: Annotated[int, Field(ge=1, le=6)] = 4

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it."""
        return 1 << self.depth


class AtomidNetworkOptions(_Options):
    """Options of `spm_training.networks.atomid.AtomidNet`; the defaults are the paper's."""

    kind: Literal["atomid"] = "atomid"
    base_width: Count = 32
    depth: Annotated[int, Field(ge=1, le=6)] = 4

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it."""
        return 1 << self.depth


#: A network by its ``kind``; `spm_training.tasks` has a task for each.
NetworkOptions = Annotated[AtomsNetworkOptions | AtomidNetworkOptions, Field(discriminator="kind")]


class SimulatorOptions(_Options):
    """What the simulator may draw; an empty list of families means all of them."""

    families: tuple[str, ...] = ()
    spacing_min_px: Positive = 3.5
    spacing_max_px: Positive = 32.0
    #: Matched-filter detectability d′ of one full-height column in the white noise.
    detectability_min: Positive = 3.5
    detectability_max: Positive = 60.0

    @pydantic.model_validator(mode="after")
    def _sensible(self) -> SimulatorOptions:
        unknown = sorted(set(self.families) - set(FAMILIES))
        if unknown:
            raise ValueError(f"unknown families {unknown}; expected some of {list(FAMILIES)}")
        for name in ("spacing_{}_px", "detectability_{}"):
            low, high = name.format("min"), name.format("max")
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is above {high} {getattr(self, high)}")
        return self


class TargetOptions(_Options):
    """The confidence map that the network learns: Gaussians of peak 1 at the columns."""

    #: σ of the Gaussian in units of the mean nearest-neighbour spacing.
    sigma_fraction: Fraction = 0.18
    #: Below this σ the peak between two pixels would be lost.
    sigma_min_px: Positive = 0.7


class LossOptions(_Options):
    """Weights of the terms of the loss; the networks' tasks say what the terms are."""

    confidence_weight: Positive = 1.0
    position_weight: Annotated[float, Field(ge=0)] = 0.01
    spacing_weight: Annotated[float, Field(ge=0)] = 0.05


class DataOptions(_Options):
    """Crops, batches and the worker processes that simulate them."""

    #: Side of a training image.
    crop_px: Count = 128
    #: Images per optimiser step over all ranks together; divisible by the number of ranks.
    batch: Count = 16
    steps_per_epoch: Count = 200
    validation_images: Count = 128
    #: Worker processes per rank that simulate: 0 simulates in the training process, -1 suits the machine.
    num_workers: Annotated[int, Field(ge=-1)] = -1


class OptimiserOptions(_Options):
    """Adam or AdamW (weight decay apart from the gradient), with clipped gradients."""

    kind: Literal["adamw", "adam"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    #: Largest norm of the whole gradient; 0 does not clip.
    grad_clip_norm: Annotated[float, Field(ge=0)] = 1.0


class PlateauOptions(_Options):
    """The learning rate falls when the validation loss stands still."""

    kind: Literal["plateau"] = "plateau"
    factor: Fraction = 0.3
    patience_epochs: Annotated[int, Field(ge=0)] = 5
    lr_min: Annotated[float, Field(ge=0)] = 1e-6


class StepOptions(_Options):
    """The learning rate falls every so many epochs; the defaults are those of the PolyU thesis, method chapter."""

    kind: Literal["step"] = "step"
    factor: Fraction = 0.1
    every_epochs: Count = 50


class CosineOptions(_Options):
    """The learning rate rises linearly for a short while, then falls along half a cosine to the last step."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    lr_min: Annotated[float, Field(ge=0)] = 1e-6


#: A schedule of the learning rate by its ``kind``; `spm_training.optimisation` makes it.
ScheduleOptions = Annotated[PlateauOptions | StepOptions | CosineOptions, Field(discriminator="kind")]


class EarlyStoppingOptions(_Options):
    """The training ends when the validation loss has not fallen for this long."""

    patience_epochs: Count = 20
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class TrainingOptions(_Options):
    """How long, how exactly and how often it is saved."""

    epochs: Count = 60
    seed: Annotated[int, Field(ge=0)] = 0
    #: Threads of one operator on the CPU; 0 suits the machine (see `spm_training.distributed.share_cores`). A resume is equal
    #: bit for bit only with the same number.
    threads: Annotated[int, Field(ge=0)] = 0
    #: bfloat16 runs convolutions in bfloat16 (autocast) on CPU and GPU; weights stay float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    #: Decay per step of the moving average of the weights, which is what is validated and exported; 0 is none.
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: Save `last.pt` also within an epoch, every so many steps; 0 only at its end.
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 0
    #: Pictures of the validation set go to TensorBoard every so many epochs.
    pictures_every_epochs: Count = 5


class ParameterOptions(_Options):
    """Defaults of the parameters that the user of the exported model may change."""

    filter_lower_bound: Fraction = 0.4
    filter_window_size: Annotated[float, Field(gt=0, le=1.5)] = 0.6


class CardOptions(_Options):
    """What the model card says that no training can find out."""

    modalities: tuple[Literal["stm", "afm", "stem"], ...] = ("stem", "stm")
    #: Range of pixel sizes of scans that the model is meant for.
    pixel_size_min_nm: Positive = 0.003
    pixel_size_max_nm: Positive = 0.25
    known_failures: tuple[str, ...] = ()


class Recipe(_Options):
    """Everything that decides a training, and what the exported package says of it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    #: What the exported network does: finds atoms, or the scale of an image for a network that finds atoms.
    task: Literal["atoms", "scale"]
    title: str
    #: Where the data come from, for `spm-train list`.
    data_source: str
    #: What a CPU of two cores does in training, measured; the printed hours follow from it.
    cpu_gflops_measured: Positive
    network: NetworkOptions = AtomsNetworkOptions()
    simulator: SimulatorOptions = SimulatorOptions()
    target: TargetOptions = TargetOptions()
    loss: LossOptions = LossOptions()
    data: DataOptions = DataOptions()
    optimiser: OptimiserOptions = OptimiserOptions()
    schedule: ScheduleOptions = PlateauOptions()
    early_stopping: EarlyStoppingOptions = EarlyStoppingOptions()
    training: TrainingOptions = TrainingOptions()
    parameters: ParameterOptions = ParameterOptions()
    card: CardOptions = CardOptions()

    @pydantic.model_validator(mode="after")
    def _crop_fits(self) -> Recipe:
        stride = self.network.stride
        if self.data.crop_px % stride:
            raise ValueError(f"data.crop_px {self.data.crop_px} is not a multiple of the network's stride {stride}")
        return self

    @pydantic.model_validator(mode="after")
    def _schedule_fits(self) -> Recipe:
        if isinstance(self.schedule, CosineOptions):
            if self.schedule.warmup_epochs >= self.training.epochs:
                raise ValueError(
                    f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} is not below training.epochs {self.training.epochs}"
                )
            if self.schedule.lr_min > self.optimiser.lr:
                raise ValueError(f"schedule.lr_min {self.schedule.lr_min} is above optimiser.lr {self.optimiser.lr}")
        return self


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that the package ships, sorted."""
    return tuple(sorted(entry.name[:-5] for entry in _shipped().iterdir() if entry.name.endswith(".toml")))


def load_recipe(name: str, *, smoke: bool = False, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply the overrides.

    Parameters
    ----------
    name
        Name of a shipped recipe, or path of a ``.toml`` file.
    smoke
        Apply the recipe's ``[smoke]`` table: the whole training in seconds.
    overrides
        ``KEY=VALUE`` with dotted keys, as ``data.batch=32``; the value is read as TOML, or as a string when it is none.

    Raises
    ------
    ParameterError
        If there is no such recipe, or a key or a value is refused.
    """
    if name in recipe_names():
        text, source = (_shipped() / f"{name}.toml").read_text(encoding="utf-8"), f"recipe {name}"
    elif name.endswith(".toml") and Path(name).is_file():
        text, source = Path(name).read_text(encoding="utf-8"), name
    else:
        raise ParameterError(
            f"recipe {name!r}: not found; expected one of {', '.join(recipe_names())} or a .toml file. "
            "`spm-train list` shows the recipes."
        )
    return _resolve(_parse(text, source), source, smoke=smoke, overrides=overrides)


def read_recipe(path: Path) -> Recipe:
    """Read the resolved recipe of a run.

    Raises
    ------
    ParameterError
        If the file is missing or is no recipe.
    """
    if not path.is_file():
        raise ParameterError(
            f"{path}: not found; expected the recipe of a run. Give a folder that `spm-train fit` wrote."
        )
    return _resolve(_parse(path.read_text(encoding="utf-8"), str(path)), str(path))


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML; `read_recipe` gives the same recipe back."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in recipe.model_dump().items():
        if isinstance(value, Mapping):
            tables += ["", f"[{key}]", *(f"{name} = {_toml_value(entry)}" for name, entry in value.items())]
        else:
            lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join(lines + tables) + "\n"


def _shipped() -> Any:
    return files("spm_training") / "recipes"


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParameterError(f"{source}: not valid TOML ({error}); expected a recipe. Correct the file.") from error


def _resolve(table: dict[str, Any], source: str, *, smoke: bool = False, overrides: Iterable[str] = ()) -> Recipe:
    table = copy.deepcopy(table)
    smoke_table = table.pop("smoke", None)
    if smoke:
        if smoke_table is None:
            raise ParameterError(f"{source}: has no [smoke] table; --smoke needs one. Add it to the recipe.")
        _merge(table, smoke_table)
    # The kind of a table first: it decides what else may stand there.
    for override in sorted(overrides, key=lambda entry: not entry.partition("=")[0].strip().endswith(".kind")):
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ParameterError(f"--set {override!r}: expected KEY=VALUE, as data.batch=32.")
        nested: dict[str, Any] = {}
        leaf = nested
        *parents, last = key.strip().split(".")
        for parent in parents:
            leaf = leaf.setdefault(parent, {})
        leaf[last] = _override_value(value.strip())
        _merge(table, nested)
    try:
        return Recipe.model_validate(_with_kinds(table))
    except pydantic.ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(part) for part in entry['loc']) or 'recipe'}: {entry['msg']} (seen: {_short(entry['input'])})"
            for entry in error.errors()
        )
        raise ParameterError(f"{source}: {reasons}. Correct the recipe or --set.") from error


def _merge(into: dict[str, Any], override: Mapping[str, Any]) -> None:
    for key, value in override.items():
        there = into.get(key)
        if not isinstance(value, Mapping) or not isinstance(there, dict) or _other_kind(key, there, value):
            into[key] = copy.deepcopy(value)
        else:
            _merge(there, value)


#: The tables whose kind decides what they may hold, with the kind of recipes that were written before there was a choice.
_KINDS = {"network": "atoms", "schedule": "plateau"}


def _other_kind(key: str, there: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return key in _KINDS and "kind" in value and value["kind"] != there.get("kind", _KINDS[key])


def _with_kinds(table: dict[str, Any]) -> dict[str, Any]:
    """Read what older runs kept: a table ``[plateau]``, and a network without a kind."""
    if "plateau" in table and "schedule" not in table:
        table["schedule"] = table.pop("plateau")
    for key, kind in _KINDS.items():
        if isinstance(table.get(key), dict):
            table[key].setdefault("kind", kind)
    return table


def _override_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word, as precision=bfloat16; the model decides whether it is allowed


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(entry) for entry in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # strings, integers and booleans are written alike in JSON and TOML


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
