"""What the latents of the patch autoencoders teach a package: clusters of windows, how near a known surface is to them, classes.

Source: UCL report, sections 2.2 (K-means on the latents of all windows) and 2.5 (Gaussian mixture on those of the defects). The
simulator knows where the defects are and of what class, which the report did not: so which clusters are those of defects, and
which class a component of the mixture stands for, are counted here and not looked up by eye.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spm_runtime.errors import ParameterError
from spm_runtime.pipelines.patch_maps import STRIDE_PX
from spm_training.clusters import Clusters, ClustersLayer, Mixture, MixtureLayer, Scaling, fit_clusters, fit_mixture
from spm_training.data import Split
from spm_training.files import write_atomically
from spm_training.networks.ae1 import MARGIN_PX, SIDE_PX, Ae1
from spm_training.networks.ae2 import Ae2
from spm_training.recipe import Recipe
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import DEFECT_CLASSES
from spm_training.tasks.patches import Ae2Task, SurfaceCrops

__all__ = ["StageOne", "StageTwo", "learn_stage_one", "stage_one", "stage_two", "target_clusters"]

#: Images of either split, and windows of each, from which the clusters are learned.
STAGE_ONE_IMAGES, WINDOWS_PER_IMAGE = 64, 256
#: Images, and patches of each, from which the mixture is learned.
STAGE_TWO_IMAGES, PATCHES_PER_IMAGE = 256, 16
#: A window lies on a defect whose centre is this near to its own, or within the defect's radius: one stride, so that there is
#: such a window for every defect.
ON_DEFECT_PX = float(STRIDE_PX)
#: A cluster is one of defects where so large a share of its windows lies on defects, this many times the share of all windows;
#: and where there are so many of its windows that this can be said.
TARGET_SHARE, TARGET_LIFT, TARGET_WINDOWS = 0.5, 2.0, 50
#: An image is new beyond this percentile of the validation images.
NOVELTY_PERCENTILE = 99.0


@dataclass(frozen=True, eq=False)
class StageOne:
    """Clusters of the windows of surfaces.

    Parameters
    ----------
    clusters
        K-means in scaled latents.
    target_clusters
        Numbers of the clusters that are defects.
    novelty_distance
        Median distance of an image's windows from the centres of their clusters that 99 of 100 validation images stay below.
    """

    clusters: Clusters
    target_clusters: tuple[int, ...]
    novelty_distance: float


@dataclass(frozen=True, eq=False)
class StageTwo:
    """A mixture of Gaussians over defects.

    Parameters
    ----------
    mixture
        In scaled latents.
    shares
        ``(K, classes)`` of each component's patches, the share of each of `DEFECT_CLASSES`.
    """

    mixture: Mixture
    shares: NDArray[np.float64]


def stage_one(run: RunFolder, network: Ae1, *, images: int = STAGE_ONE_IMAGES) -> StageOne:
    """Clusters of a run of the first autoencoder, from ``stage_one.npz`` beside its weights where these are the same.

    Parameters
    ----------
    run
        The run.
    network
        Its network with the best weights, with context, in evaluation mode.
    images
        Images of the training split for the clusters, and of the validation split for the novelty; no more than the pool of the
        recipe has.
    """
    file, print_ = run.path / "stage_one.npz", _fingerprint(run, images)
    found = _kept(file, print_)
    if found is None:
        learned = _learn_one(run, network, images)
        found = {
            "low": learned.clusters.scaling.low,
            "gain": learned.clusters.scaling.gain,
            "centres": learned.clusters.centres,
            "target_clusters": np.array(learned.target_clusters, np.int64),
            "novelty_distance": np.array(learned.novelty_distance),
        }
        _keep(file, print_, found)
    clusters = Clusters(Scaling(found["low"], found["gain"]), found["centres"])
    return StageOne(clusters, tuple(found["target_clusters"].tolist()), float(found["novelty_distance"]))


def _learn_one(run: RunFolder, network: Ae1, images: int) -> StageOne:
    return learn_stage_one(run.recipe(), network, images)


def learn_stage_one(recipe: Recipe, network: Ae1, images: int, *, more: Sequence[NDArray[np.float32]] = ()) -> StageOne:
    """Clusters of a network's latents of simulated images, and of further ones where there are any.

    Parameters
    ----------
    recipe
        Which images are simulated.
    network
        With context, in evaluation mode.
    images
        Images of the training split for the clusters, and of the validation split for the novelty; no more than the pool of the
        recipe has.
    more
        Further images ``(H + 14, W + 14)`` in [0, 1] with their context, for both. Nobody knows their defects, so they have no
        say in which clusters are those of defects.
    """
    count = min(images, recipe.data.pool)
    rng = np.random.default_rng(recipe.training.seed)
    latents, on_defect = [], []
    crops = SurfaceCrops(recipe, Split.TRAIN, MARGIN_PX)
    for number in range(count):
        surface = crops.surface(number)
        latent, middle = _windows(network, surface.image)
        chosen = rng.choice(len(latent), min(len(latent), WINDOWS_PER_IMAGE), replace=False)
        latents.append(latent[chosen])
        on_defect.append(_lies_on(middle[chosen], surface.yx_px, surface.radius_px))
    known = np.concatenate(latents)
    others = [_windows(network, image)[0] for image in more]
    for latent in others:
        latents.append(latent[rng.choice(len(latent), min(len(latent), WINDOWS_PER_IMAGE), replace=False)])
    clusters = fit_clusters(np.concatenate(latents), seed=recipe.training.seed)
    layer = ClustersLayer(clusters)
    label = layer(torch.from_numpy(known))[0][:, 0].numpy().astype(np.int64)
    targets = target_clusters(label, np.concatenate(on_defect), len(clusters.centres))
    typical = [float(layer(torch.from_numpy(latent))[1].median()) for latent in others]
    crops = SurfaceCrops(recipe, Split.VALIDATION, MARGIN_PX)
    for number in range(count):
        latent, _ = _windows(network, crops.surface(number).image)
        typical.append(float(layer(torch.from_numpy(latent))[1].median()))
    return StageOne(clusters, targets, float(np.percentile(typical, NOVELTY_PERCENTILE)))


def target_clusters(label: NDArray[np.int64], on_defect: NDArray[np.bool_], clusters: int) -> tuple[int, ...]:
    """Clusters that are defects: `TARGET_SHARE` of their windows lie on one, and `TARGET_LIFT` times the share of all windows.

    A cluster goes into the mask with all of its windows, so most of them have to be right.

    Parameters
    ----------
    label
        ``(N,)`` cluster of every window.
    on_defect
        ``(N,)`` whether it lies on a defect.
    clusters
        Number of clusters.
    """
    windows = np.bincount(label, minlength=clusters)
    right = np.bincount(label[on_defect], minlength=clusters)
    share = right / np.maximum(windows, 1)
    least = max(TARGET_SHARE, TARGET_LIFT * float(on_defect.mean()))
    return tuple(int(n) for n in np.flatnonzero((share >= least) & (windows >= TARGET_WINDOWS)))


@torch.no_grad()
def _windows(network: Ae1, image: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Latents ``(N, D)`` of all windows of an image at the pipeline's stride, and their middles ``(N, 2)`` in the image."""
    tensor = torch.from_numpy(np.clip(image.astype(np.float32), 0, 1))
    found = network.encode_image(tensor[None, None], STRIDE_PX)[0]
    rows, columns = (np.arange(n) * STRIDE_PX + MARGIN_PX + (SIDE_PX - 1) / 2 for n in found.shape[1:])
    middle = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return found.flatten(1).T.contiguous().numpy(), middle


def _lies_on(
    middle: NDArray[np.float64], yx_px: NDArray[np.float64], radius_px: NDArray[np.float64]
) -> NDArray[np.bool_]:
    away = np.linalg.norm(middle[:, None] - yx_px[None], axis=-1)  # (windows, defects)
    return np.asarray((away <= np.maximum(radius_px, ON_DEFECT_PX)).any(axis=1))


def stage_two(run: RunFolder, network: Ae2, *, images: int = STAGE_TWO_IMAGES) -> StageTwo:
    """Mixture of a run of the second autoencoder, from ``stage_two.npz`` beside its weights where these are the same.

    Parameters
    ----------
    run
        The run.
    network
        Its network with the best weights, in evaluation mode.
    images
        Images of the training split; no more than the pool of the recipe has.
    """
    file, print_ = run.path / "stage_two.npz", _fingerprint(run, images)
    found = _kept(file, print_)
    if found is None:
        learned = _learn_two(run, network, images)
        mixture = learned.mixture
        found = {
            "low": mixture.scaling.low,
            "gain": mixture.scaling.gain,
            "weights": mixture.weights,
            "means": mixture.means,
            "factors": mixture.factors,
            "shares": learned.shares,
        }
        _keep(file, print_, found)
    scaling = Scaling(found["low"], found["gain"])
    return StageTwo(Mixture(scaling, found["weights"], found["means"], found["factors"]), found["shares"])


@torch.no_grad()
def _learn_two(run: RunFolder, network: Ae2, images: int) -> StageTwo:
    recipe = run.recipe()
    pool = recipe.data.pool
    patches = Ae2Task(recipe).dataset(Split.TRAIN)
    # Indices a whole pool apart are the same image with another patch of it.
    drawn = [
        patches[0, number + turn * pool] for number in range(min(images, pool)) for turn in range(PATCHES_PER_IMAGE)
    ]
    kind = np.array([int(kind) for _, _, kind in drawn])
    image = torch.stack([one for one, _, _ in drawn])
    latent = torch.cat([network.encode(part) for part in image.split(256)])  # type: ignore[no-untyped-call]
    mixture = fit_mixture(latent.numpy(), seed=recipe.training.seed)
    log_probability, _ = MixtureLayer(mixture)(latent)
    belongs = log_probability.double().exp().numpy()  # (N, K)
    # One patch of every class beforehand, spread as all patches are: a component without patches says nothing.
    counts = np.stack([belongs[kind == one].sum(axis=0) for one in range(len(DEFECT_CLASSES))], axis=1)
    counts += np.bincount(kind, minlength=len(DEFECT_CLASSES)) / len(kind)
    return StageTwo(mixture, counts / counts.sum(axis=1, keepdims=True))


def _fingerprint(run: RunFolder, images: int) -> str:
    return f"{hashlib.sha256(run.best.read_bytes()).hexdigest()} {images}"


def _kept(file: Path, print_: str) -> Mapping[str, NDArray[np.float64]] | None:
    """What `_keep` wrote for the same weights; None where there is no such file."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
            return None if str(arrays.pop("weights_of")) != print_ else arrays
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError(
            f"{file}: not readable ({type(error).__name__}: {error}); expected what an export learned. Delete it."
        ) from error


def _keep(file: Path, print_: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, weights_of=np.array(print_), **arrays)
    write_atomically(file, content.getvalue())
