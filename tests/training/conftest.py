"""A recipe and a run that take a second."""

import pytest

from spm_training.fit import fit
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder

#: Smaller than the recipe's own [smoke]: these tests train many times.
TINY = (
    "data.crop_px=32",
    "data.batch=4",
    "data.steps_per_epoch=3",
    "data.validation_images=4",
    "training.threads=1",
    # A schedule that does not depend on the length, so that a test may lengthen a training.
    "schedule.kind=plateau",
)


UNET = ("network.base_width=2", "network.depth=2")
SCANS = ("tips.image_px=64", "data.pool=4")
TINY_NETWORKS = {
    "atoms": UNET,
    "atomid": UNET,
    "scale": ("network.width=4", "data.pool=8"),
    "defects": (*UNET, "surfaces.image_px=64", "data.pool=4"),
    "ae1": ("network.latent=16", "data.pool=2"),
    "ae2": ("network.hidden=16", "data.pool=2"),
    "tip": (*UNET, *SCANS),
    "restore": (*UNET, *SCANS),
    "tip-model-1": SCANS,
    "tip-model-2": SCANS,
    "tip-model-3": SCANS,
    "denoise": (*UNET, "lattices.image_px=32", "data.pool=4"),
    "cae-a": ("data.pool=2",),
    "cae-b": ("data.pool=2",),
    "cae-twin": ("data.pool=2",),
    "cae-vae": ("data.pool=2",),
}


def tiny_recipe(*overrides, name="atoms"):
    return load_recipe(name, smoke=True, overrides=(*TINY, *TINY_NETWORKS[name], *overrides))


def train(recipe, folder, **options):
    return fit(recipe, RunFolder(folder), device="cpu", report=lambda line: None, **options)


@pytest.fixture
def tiny():
    """Recipe with overrides."""
    return tiny_recipe


@pytest.fixture
def run_fit():
    """Train a recipe into a folder."""
    return train


@pytest.fixture(scope="session")
def tiny_recipe_of():
    """The same as `tiny`, for fixtures that outlive a test."""
    return tiny_recipe


@pytest.fixture(scope="session")
def trained():
    """The same as `run_fit`, for fixtures that outlive a test."""
    return train


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished run of two epochs; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "atoms"
    train(tiny_recipe(), folder)
    return folder
