"""The table ``[network]`` of a recipe: one frozen model for each kind of network, told apart by its ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Ae1NetworkOptions",
    "Ae2NetworkOptions",
    "AtomidNetworkOptions",
    "AtomsNetworkOptions",
    "CaeNetworkOptions",
    "Count",
    "DenoiserNetworkOptions",
    "FinderNetworkOptions",
    "Fraction",
    "JudgeNetworkOptions",
    "NetworkOptions",
    "Options",
    "Positive",
    "RestorerNetworkOptions",
    "ScaleNetworkOptions",
    "TipModelOptions",
    "TipNetworkOptions",
]

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """A table: frozen, and strict about its keys."""

    # extra="forbid": a misspelt key is an error, never ignored. strict=False lets 1 stand for 1.0.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class AtomsNetworkOptions(Options):
    """Options of `spm_training.networks.atoms.AtomsNet`."""

    kind: Literal["atoms"] = "atoms"
    base_width: Count = 16
    depth: Annotated[int, Field(ge=1, le=6)] = 4

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it."""
        return 1 << self.depth


class AtomidNetworkOptions(Options):
    """Options of `spm_training.networks.atomid.AtomidNet`; the defaults are the paper's."""

    kind: Literal["atomid"] = "atomid"
    base_width: Count = 32
    depth: Annotated[int, Field(ge=1, le=6)] = 4

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it."""
        return 1 << self.depth


class ScaleNetworkOptions(Options):
    """Options of `spm_training.networks.scale.ScaleNet`."""

    kind: Literal["scale"] = "scale"
    width: Count = 24

    @property
    def stride(self) -> int:
        """It sees spectra: crops may have any size."""
        return 1


class FinderNetworkOptions(Options):
    """Options of `spm_training.networks.finder.FinderNet`."""

    kind: Literal["finder"] = "finder"
    #: What it sees, in this order: names out of `spm_runtime.pipelines.surface.FINDER_CHANNELS`.
    channels: tuple[Literal["fine", "coarse", "spread", "pixel"], ...] = ("fine", "coarse", "spread", "pixel")
    base_width: Count = 16
    depth: Annotated[int, Field(ge=1, le=6)] = 4

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it."""
        return 1 << self.depth


class Ae1NetworkOptions(Options):
    """Options of `spm_training.networks.ae1.Ae1`; sizes are the report's, the rate of the dropouts is not printed."""

    kind: Literal["ae1"] = "ae1"
    latent: Count = 32
    #: The encoder sees the pixels around a window; false pads with zeros, as printed.
    context: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    #: Batch norms learn their means and variances; false keeps those of the run that this one begins with.
    batch_statistics: bool = True

    @property
    def stride(self) -> int:
        """Crops are cut into windows of this side."""
        return 32


class Ae2NetworkOptions(Options):
    """Options of `spm_training.networks.ae2.Ae2`; sizes are the report's, the rate of the dropouts is not printed."""

    kind: Literal["ae2"] = "ae2"
    latent: Count = 8
    hidden: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def stride(self) -> int:
        """It sees one window of this side."""
        return 32


class TipNetworkOptions(Options):
    """Options of `spm_training.networks.tip.TipNet`."""

    kind: Literal["tip"] = "tip"
    base_width: Count = 24
    depth: Annotated[int, Field(ge=1, le=5)] = 4

    @property
    def stride(self) -> int:
        """It sees maps of the tip's size: crops may have any size."""
        return 1


class JudgeNetworkOptions(Options):
    """Options of `spm_training.networks.judge.JudgeNet`."""

    kind: Literal["judge"] = "judge"
    hidden: Count = 192
    members: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @property
    def stride(self) -> int:
        """It sees numbers: crops may have any size."""
        return 1


class RestorerNetworkOptions(Options):
    """Options of `spm_training.networks.restorer.RestorerNet`."""

    kind: Literal["restorer"] = "restorer"
    base_width: Count = 32
    depth: Annotated[int, Field(ge=1, le=5)] = 3
    #: It sees what trained networks say of the tip (`TipSceneOptions.tip_run` and `judge_run`); false sees the image alone.
    with_tip: bool = False

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it: the network works on half of the resolution."""
        return 2 << self.depth


class TipModelOptions(Options):
    """The hackathon's models 1, 2 and 3 (`spm_training.networks.tip_models`), whose sizes are fixed."""

    kind: Literal["tip1", "tip2", "tip3"] = "tip1"

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it."""
        return 16


class DenoiserNetworkOptions(Options):
    """Options of `spm_training.networks.denoiser.DenoiserNet`."""

    kind: Literal["denoiser"] = "denoiser"
    base_width: Count = 32
    depth: Annotated[int, Field(ge=1, le=5)] = 3
    #: It works on an image whose pixels were folded into channels, two by two; 1 works on the pixels themselves.
    fold_px: Literal[1, 2] = 2
    #: Sides of the windows of `spm_runtime.pipelines.fourier_wiener`, whose answers the network sees beside the image.
    windows_px: tuple[Annotated[int, Field(ge=4, multiple_of=2)], ...] = ()

    @property
    def stride(self) -> int:
        """Height and width of a crop are multiples of it."""
        return self.fold_px << self.depth


class CaeNetworkOptions(Options):
    """The patch autoencoders of the USC study (`spm_training.networks.cae`), whose sizes are fixed."""

    kind: Literal["cae-a", "cae-b", "cae-twin", "cae-vae"] = "cae-a"

    @property
    def stride(self) -> int:
        """They see patches of their own size: crops may have any."""
        return 1


#: A network by its ``kind``; `spm_training.tasks` has a task for each.
NetworkOptions = Annotated[
    AtomsNetworkOptions
    | AtomidNetworkOptions
    | ScaleNetworkOptions
    | FinderNetworkOptions
    | Ae1NetworkOptions
    | Ae2NetworkOptions
    | TipNetworkOptions
    | JudgeNetworkOptions
    | RestorerNetworkOptions
    | TipModelOptions
    | DenoiserNetworkOptions
    | CaeNetworkOptions,
    Field(discriminator="kind"),
]
