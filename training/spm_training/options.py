"""The tables of a recipe, as frozen models: every number that decides a training, with its unit, its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from spm_training.simulate.columns import FAMILIES
from spm_training.simulate.surfaces import FAMILIES as SURFACE_FAMILIES

__all__ = [
    "Ae1NetworkOptions",
    "Ae2NetworkOptions",
    "AtomidNetworkOptions",
    "AtomsNetworkOptions",
    "CardOptions",
    "CosineOptions",
    "DataOptions",
    "EarlyStoppingOptions",
    "FinderNetworkOptions",
    "JudgeNetworkOptions",
    "LossOptions",
    "NetworkOptions",
    "OptimiserOptions",
    "Options",
    "ParameterOptions",
    "PlateauOptions",
    "Positive",
    "RestorerNetworkOptions",
    "ScaleNetworkOptions",
    "ScheduleOptions",
    "SimulatorOptions",
    "StepOptions",
    "SurfaceOptions",
    "TargetOptions",
    "TipModelOptions",
    "TipNetworkOptions",
    "TipSceneOptions",
    "TrainingOptions",
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
    | TipModelOptions,
    Field(discriminator="kind"),
]


class SimulatorOptions(Options):
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


class SurfaceOptions(Options):
    """The simulated surfaces that patch autoencoders learn from; an empty list of families means all of them."""

    families: tuple[str, ...] = ()
    #: Side of a simulated image. Each is scaled as a whole; crops and patches are cut from it.
    image_px: Annotated[int, Field(ge=64)] = 288
    #: d′ of the reference defect in the white noise of an image (`spm_training.simulate.surfaces.white_noise_nm`).
    detectability_min: Positive = 6.0
    detectability_max: Positive = 420.0
    #: With point defects or without.
    defects: bool = True
    #: On the working pixels and levelled terrace by terrace, as the pipeline does it; false takes the scan's pixels less a plane,
    #: as printed. The finder of defects has a levelling of its own.
    terraces: bool = True
    #: Per cent of the pixels beyond each end of the range; 0 takes the extremes, as printed.
    clip_percent: Annotated[float, Field(ge=0, lt=50)] = 0.0

    @pydantic.model_validator(mode="after")
    def _sensible(self) -> SurfaceOptions:
        unknown = sorted(set(self.families) - set(SURFACE_FAMILIES))
        if unknown:
            raise ValueError(f"unknown families {unknown}; expected some of {list(SURFACE_FAMILIES)}")
        if self.detectability_min > self.detectability_max:
            raise ValueError(
                f"detectability_min {self.detectability_min} is above detectability_max {self.detectability_max}"
            )
        return self


class TipSceneOptions(Options):
    """Surfaces under bad tips (`spm_training.simulate.tips`), for networks that restore them."""

    #: Side of a simulated scan; crops are cut from it.
    image_px: Annotated[int, Field(ge=64, multiple_of=64)] = 256
    modalities: tuple[Literal["afm", "stm"], ...] = ("afm", "stm")
    #: Kinds of corruption to draw from; a name that stands twice is drawn twice as often.
    families: tuple[Literal["blunt", "double", "hackathon", "convolution"], ...] = (
        "blunt",
        "double",
        "hackathon",
        "convolution",
    )
    #: Run of the network that estimates tips, for networks that go on from its estimate.
    tip_run: str = ""
    #: Run of the network that judges how blunt that tip is, for a network that restores with the help of both.
    judge_run: str = ""


class TargetOptions(Options):
    """The confidence map that the network learns: Gaussians of peak 1 at the columns."""

    #: σ of the Gaussian in units of the mean nearest-neighbour spacing.
    sigma_fraction: Fraction = 0.18
    #: Below this σ the peak between two pixels would be lost.
    sigma_min_px: Positive = 0.7


class LossOptions(Options):
    """Weights of the terms of the loss; the networks' tasks say what the terms are."""

    confidence_weight: Positive = 1.0
    position_weight: Annotated[float, Field(ge=0)] = 0.01
    spacing_weight: Annotated[float, Field(ge=0)] = 0.05
    #: What the first patch autoencoder may learn beside the squared error (`spm_training.patch_losses`): the same latents for
    #: mirrored and turned windows; to tell windows apart by them; to stay near the centres of K-means in `clusters_file`; the
    #: image at half of the resolution too.
    symmetry_weight: Annotated[float, Field(ge=0)] = 0.0
    contrast_weight: Annotated[float, Field(ge=0)] = 0.0
    cluster_weight: Annotated[float, Field(ge=0)] = 0.0
    coarse_weight: Annotated[float, Field(ge=0)] = 0.0
    #: What a network that restores surfaces learns: absolute error, 1 − SSIM, absolute error of the differences between
    #: neighbours, and where the tip touched.
    mae_weight: Annotated[float, Field(ge=0)] = 1.0
    ssim_weight: Annotated[float, Field(ge=0)] = 0.0
    gradient_weight: Annotated[float, Field(ge=0)] = 0.0
    touched_weight: Annotated[float, Field(ge=0)] = 0.0
    #: Errors count in units of the error of the scan as it was plus this height (in units of its relief), so that every scan
    #: matters alike; 0 counts them in units of the relief.
    relative_floor: Annotated[float, Field(ge=0)] = 0.0
    #: Clusters of an earlier run, as `spm_training.clusters.Clusters` writes them.
    clusters_file: str = ""

    @property
    def with_views(self) -> bool:
        """Whether a patch autoencoder learns more than the squared error."""
        return bool(self.symmetry_weight or self.contrast_weight or self.cluster_weight or self.coarse_weight)


class DataOptions(Options):
    """Crops, batches and the worker processes that simulate them."""

    #: Side of a training image.
    crop_px: Count = 128
    #: Images per optimiser step over all ranks together; divisible by the number of ranks.
    batch: Count = 16
    steps_per_epoch: Count = 200
    validation_images: Count = 128
    #: Simulated images that networks draw from again and again, mirrored (and spectra turned) anew every time: those that read
    #: scales, and patch autoencoders.
    pool: Count = 20_000
    #: Folder that keeps those images or their spectra for the next run; empty keeps none.
    cache: str = ""
    #: Worker processes per rank that simulate: 0 simulates in the training process, -1 suits the machine.
    num_workers: Annotated[int, Field(ge=-1)] = -1


class OptimiserOptions(Options):
    """Adam or AdamW (weight decay apart from the gradient), with clipped gradients."""

    kind: Literal["adamw", "adam"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    #: Largest norm of the whole gradient; 0 does not clip.
    grad_clip_norm: Annotated[float, Field(ge=0)] = 1.0


class PlateauOptions(Options):
    """The learning rate falls when the validation loss stands still."""

    kind: Literal["plateau"] = "plateau"
    factor: Fraction = 0.3
    patience_epochs: Annotated[int, Field(ge=0)] = 5
    lr_min: Annotated[float, Field(ge=0)] = 1e-6


class StepOptions(Options):
    """The learning rate falls every so many epochs; the defaults are those of the PolyU thesis, method chapter."""

    kind: Literal["step"] = "step"
    factor: Fraction = 0.1
    every_epochs: Count = 50


class CosineOptions(Options):
    """The learning rate rises linearly for a short while, then falls along half a cosine to the last step."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    lr_min: Annotated[float, Field(ge=0)] = 1e-6


#: A schedule of the learning rate by its ``kind``; `spm_training.optimisation` makes it.
ScheduleOptions = Annotated[PlateauOptions | StepOptions | CosineOptions, Field(discriminator="kind")]


class EarlyStoppingOptions(Options):
    """The training ends when the validation loss has not fallen for this long."""

    patience_epochs: Count = 20
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class TrainingOptions(Options):
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


class ParameterOptions(Options):
    """Defaults of the parameters that the user of the exported model may change."""

    #: Of a finder of atoms.
    filter_lower_bound: Fraction = 0.4
    filter_window_size: Annotated[float, Field(gt=0, le=1.5)] = 0.6
    #: Of a finder of defects: the lowest score; whether each is looked for in the other scan direction; whether what only the
    #: error map shows is reported, and the chance of such a report in an image without defects.
    lower_bound: Annotated[float, Field(ge=0, le=1)] = 0.4
    confirm: Annotated[int, Field(ge=0, le=1)] = 1
    unexplained: Annotated[int, Field(ge=0, le=1)] = 0
    false_alarms: Annotated[float, Field(ge=1e-4, le=0.99)] = 0.1


class CardOptions(Options):
    """What the model card says that no training can find out."""

    modalities: tuple[Literal["stm", "afm", "stem"], ...] = ("stem", "stm")
    #: Range of pixel sizes of scans that the model is meant for.
    pixel_size_min_nm: Positive = 0.003
    pixel_size_max_nm: Positive = 0.25
    known_failures: tuple[str, ...] = ()
