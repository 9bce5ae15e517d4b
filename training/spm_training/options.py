"""The tables of a recipe, as frozen models: every number that decides a training, with its unit, its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from spm_training.network_options import (
    Ae1NetworkOptions,
    Ae2NetworkOptions,
    AtomidNetworkOptions,
    AtomsNetworkOptions,
    CaeNetworkOptions,
    Count,
    DenoiserNetworkOptions,
    FinderNetworkOptions,
    Fraction,
    JudgeNetworkOptions,
    NetworkOptions,
    Options,
    Positive,
    RestorerNetworkOptions,
    ScaleNetworkOptions,
    TipModelOptions,
    TipNetworkOptions,
)
from spm_training.simulate.columns import FAMILIES
from spm_training.simulate.stm_lattices import LATTICES
from spm_training.simulate.surfaces import FAMILIES as SURFACE_FAMILIES

__all__ = [
    "Ae1NetworkOptions",
    "Ae2NetworkOptions",
    "AtomidNetworkOptions",
    "AtomsNetworkOptions",
    "CaeNetworkOptions",
    "CardOptions",
    "CosineOptions",
    "DataOptions",
    "DenoiserNetworkOptions",
    "EarlyStoppingOptions",
    "FinderNetworkOptions",
    "JudgeNetworkOptions",
    "LatticeImageOptions",
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

Range = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


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


class LatticeImageOptions(Options):
    """Images of lattices (`spm_training.simulate.stm_lattices`) that networks learn to denoise; no lattice named means all."""

    names: tuple[str, ...] = ()
    #: Lattices out of these whose images are passed over, with the other surfaces among them: what a network makes of a lattice
    #: that it never saw. Unlike those of fewer names, the images are those of the whole set, and come from the same cache.
    leave_out: tuple[str, ...] = ()
    #: Side of a simulated image. Each is scaled as a whole; crops and patches are cut from it.
    image_px: Annotated[int, Field(ge=32)] = 256
    #: Smallest and largest factor on the lattice's printed pixels per lattice unit; drawn log-uniformly, as all ranges here.
    spread_factor: Range = (1.0, 1.0)
    #: Strengths of the noise as in `spm_training.simulate.stm_lattices.Noise`, each drawn on its own; two zeros are none.
    thermal: Range = (0.03, 0.5)
    shot: Range = (0.03, 0.3)
    striation: Range = (0.015, 0.2)
    #: Largest share of vacancies and of adatoms among the sites; each share is drawn evenly from 0 to it.
    vacancies_max: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    adatoms_max: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    #: Share of images of other surfaces, with steps and point defects, as the table ``[surfaces]`` has them: a network that saw
    #: lattices alone makes lattices of everything. Patches are cut from lattices only.
    surfaces_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    #: Share of images upside down, for contrasts in which atoms are dark.
    inverted_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    #: Patches of each image that patch autoencoders learn from: out of those at every fourth pixel while there are enough of
    #: them, anywhere beyond. Source: USC report, sections 4.2 and 4.3.
    patches: Count = 3000
    #: What a network is to answer: the image without its noise, or, as the USC report does, the image itself.
    target: Literal["clean", "noisy"] = "clean"

    @pydantic.model_validator(mode="after")
    def _sensible(self) -> LatticeImageOptions:
        unknown = sorted(set(self.names) - set(LATTICES))
        if unknown:
            raise ValueError(f"unknown lattices {unknown}; expected some of {list(LATTICES)}")
        strange = sorted(set(self.leave_out) - set(self.names or LATTICES))
        if strange:
            raise ValueError(f"leave_out {strange}; expected some of {list(self.names or LATTICES)}")
        if not self.taught:
            raise ValueError(
                f"leave_out {list(self.leave_out)}: no lattice is left; expected one or more. Leave out fewer"
            )
        for name in ("spread_factor", "thermal", "shot", "striation"):
            low, high = getattr(self, name)
            if not (0 < low <= high or (low == high == 0 and name != "spread_factor")):
                raise ValueError(f"{name} {low:g} to {high:g}; expected an ascending range above 0")
        return self

    @property
    def taught(self) -> tuple[str, ...]:
        """The lattices that a network sees."""
        return tuple(name for name in self.names or LATTICES if name not in self.leave_out)


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
    #: matters alike; 0 counts them in units of the relief. Of a network that takes noise away: in units of the noise.
    relative_floor: Annotated[float, Field(ge=0)] = 0.0
    #: What a pixel counts more, of a network that takes noise away, where the first of the filtered images is an atom's height
    #: off the clean one: at defects, which a filter of waves fills in, and which are too few to matter otherwise.
    irregular_weight: Annotated[float, Field(ge=0)] = 0.0
    #: What the network with two decoders learns beside the image without noise: the patch moved so that its nearest atom is in
    #: the middle, and how far in pixels that is.
    centred_weight: Annotated[float, Field(ge=0)] = 0.0
    offset_weight: Annotated[float, Field(ge=0)] = 0.0
    #: What the variational patch autoencoder pays per nat of divergence and pixel of a patch, in squared units of the view: β
    #: times 2 s², where s² is the squared error per pixel that the patch is believed with.
    kl_weight: Annotated[float, Field(ge=0)] = 0.0
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
