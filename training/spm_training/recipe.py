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
from pydantic import Field

from spm_runtime.errors import ParameterError
from spm_training.options import (
    Ae1NetworkOptions,
    Ae2NetworkOptions,
    AtomidNetworkOptions,
    AtomsNetworkOptions,
    CaeNetworkOptions,
    CardOptions,
    CosineOptions,
    DataOptions,
    DenoiserNetworkOptions,
    EarlyStoppingOptions,
    FinderNetworkOptions,
    JudgeNetworkOptions,
    LatticeImageOptions,
    LossOptions,
    NetworkOptions,
    OptimiserOptions,
    Options,
    ParameterOptions,
    PlateauOptions,
    Positive,
    RestorerNetworkOptions,
    ScaleNetworkOptions,
    ScheduleOptions,
    SimulatorOptions,
    StepOptions,
    SurfaceOptions,
    TargetOptions,
    TipModelOptions,
    TipNetworkOptions,
    TipSceneOptions,
    TrainingOptions,
)

__all__ = [
    "Ae1NetworkOptions",
    "Ae2NetworkOptions",
    "AtomidNetworkOptions",
    "AtomsNetworkOptions",
    "CaeNetworkOptions",
    "CosineOptions",
    "DataOptions",
    "DenoiserNetworkOptions",
    "FinderNetworkOptions",
    "JudgeNetworkOptions",
    "LatticeImageOptions",
    "PlateauOptions",
    "Recipe",
    "RestorerNetworkOptions",
    "ScaleNetworkOptions",
    "StepOptions",
    "SurfaceOptions",
    "TargetOptions",
    "TipModelOptions",
    "TipNetworkOptions",
    "TipSceneOptions",
    "load_recipe",
    "read_recipe",
    "recipe_names",
    "to_toml",
]

#: Pixels around a crop that a patch autoencoder with context sees: its MARGIN_PX, repeated here because torch takes seconds to
#: import (a test compares them).
CONTEXT_PX = 7
#: Side of a crop that holds a window with its context at half of the resolution: 2 · (32 + 2 · 7) less the context, in windows.
COARSE_CROP_PX = 96


class Recipe(Options):
    """Everything that decides a training, and what the exported package says of it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    #: What the exported network does: finds atoms, or the scale of an image for a network that finds atoms; or defects; or
    #: restores surfaces; or takes noise away.
    task: Literal["atoms", "scale", "defects", "restore", "denoise"]
    title: str
    #: Where the data come from, for `spm-train list`.
    data_source: str
    #: What a CPU of two cores does in training, measured; the printed hours follow from it.
    cpu_gflops_measured: Positive
    network: NetworkOptions = AtomsNetworkOptions()
    simulator: SimulatorOptions = SimulatorOptions()
    surfaces: SurfaceOptions = SurfaceOptions()
    tips: TipSceneOptions = TipSceneOptions()
    lattices: LatticeImageOptions = LatticeImageOptions()
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
    def _crop_fits_the_surface(self) -> Recipe:
        context = {"ae1": 2 * CONTEXT_PX, "finder": 0}.get(self.network.kind)
        if context is not None and self.surfaces.image_px < self.data.crop_px + context:
            raise ValueError(
                f"surfaces.image_px {self.surfaces.image_px} is below {self.data.crop_px + context}: a crop of "
                f"{self.data.crop_px} px and its context of {context}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _crop_fits_the_scan(self) -> Recipe:
        restores = self.network.kind in ("restorer", "tip1", "tip2", "tip3")
        if restores and self.tips.image_px < self.data.crop_px:
            raise ValueError(f"tips.image_px {self.tips.image_px} is below data.crop_px {self.data.crop_px}")
        tips = self.tips
        if isinstance(self.network, RestorerNetworkOptions) and not (
            self.network.with_tip == bool(tips.tip_run) == bool(tips.judge_run)
        ):
            raise ValueError("network.with_tip, tips.tip_run and tips.judge_run need one another")
        return self

    @pydantic.model_validator(mode="after")
    def _crop_fits_the_lattice(self) -> Recipe:
        if self.network.kind == "denoiser" and self.lattices.image_px < self.data.crop_px:
            raise ValueError(f"lattices.image_px {self.lattices.image_px} is below data.crop_px {self.data.crop_px}")
        if isinstance(self.network, CaeNetworkOptions) and self.lattices.surfaces_share:
            raise ValueError("lattices.surfaces_share: patches are cut from lattices only")
        if self.loss.irregular_weight and not (
            isinstance(self.network, DenoiserNetworkOptions) and self.network.windows_px
        ):
            raise ValueError("loss.irregular_weight needs the filtered images of network.windows_px")
        return self

    @pydantic.model_validator(mode="after")
    def _loss_fits(self) -> Recipe:
        loss = self.loss
        if loss.with_views and self.network.kind != "ae1":
            raise ValueError(f"loss: terms of the network 'ae1', which {self.network.kind!r} does not have")
        if bool(loss.cluster_weight) != bool(loss.clusters_file):
            raise ValueError("loss.cluster_weight and loss.clusters_file need each other")
        if loss.coarse_weight and self.data.crop_px < COARSE_CROP_PX:
            raise ValueError(
                f"data.crop_px {self.data.crop_px} is below {COARSE_CROP_PX}, which loss.coarse_weight needs"
            )
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
    table = _renamed(copy.deepcopy(table))
    smoke_table = table.pop("smoke", None)
    if smoke:
        if smoke_table is None:
            raise ParameterError(f"{source}: has no [smoke] table; --smoke needs one. Add it to the recipe.")
        _merge(table, _renamed(smoke_table))
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
        _merge(table, _renamed(nested))
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


def _renamed(table: dict[str, Any]) -> dict[str, Any]:
    """Read what older recipes say: their table ``[plateau]`` was the only schedule."""
    if "plateau" in table and "schedule" not in table:
        table["schedule"] = table.pop("plateau")
    return table


def _with_kinds(table: dict[str, Any]) -> dict[str, Any]:
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
