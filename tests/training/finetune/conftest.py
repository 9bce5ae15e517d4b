"""Scans as a user has them, and a package to begin with."""

import gwyfile
import numpy as np
import pytest
from gwyfile.objects import GwyContainer, GwyDataField, GwySIUnit

from spm_runtime.models import load_package
from spm_training.export import ExportOptions, export_run
from spm_training.recipe import load_recipe
from spm_training.run import RunFolder
from spm_training.simulate.surfaces import simulate_surface

assert gwyfile  # the reader's own package writes too


def write_gwy(path, images, pixel_nm, unit="m"):
    """Images in nm by title as channels of a file."""
    container = GwyContainer()
    for number, (title, image) in enumerate(images.items()):
        height, width = image.shape
        container[f"/{number}/data"] = GwyDataField(
            image.astype(np.float64) * 1e-9,
            xreal=width * pixel_nm * 1e-9,
            yreal=height * pixel_nm * 1e-9,
            si_unit_xy=GwySIUnit(unitstr="m"),
            si_unit_z=GwySIUnit(unitstr=unit),
        )
        container[f"/{number}/data/title"] = title
    container.tofile(str(path))


def simulated(seed, shape=(72, 80), defects=True):
    rng = np.random.default_rng(seed)
    return simulate_surface(
        rng, shape=shape, families=["si001-2x1-h"], pixel_size_nm=0.08, noise="clear", defects=defects
    )


@pytest.fixture(scope="session")
def write():
    """Write a Gwyddion file."""
    return write_gwy


@pytest.fixture(scope="session")
def scene():
    """A simulated surface by seed."""
    return simulated


@pytest.fixture(scope="session")
def user_scans(tmp_path_factory):
    """A folder with four scans in both directions, and what lies about there; not to be changed."""
    folder = tmp_path_factory.mktemp("user")
    for number in range(4):
        scene = simulated(number)
        noise = np.random.default_rng(number).normal(0, scene.white_noise_nm, scene.clean.shape)
        images = {"Z (Forward)": scene.image, "Z (Backward)": scene.clean + noise}
        write_gwy(folder / f"scan-{number}.gwy", images, 0.08)
    write_gwy(folder / "current.gwy", {"Current": simulated(9).image}, 0.08, "A")
    (folder / "notes.txt").write_text("a good tip on Tuesday", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def runs(trained, tmp_path_factory):
    """Finished smoke runs by recipe, not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("defects", "ae1"):
        recipe = load_recipe(name, smoke=True, overrides=("training.epochs=1", "training.threads=1"))
        trained(recipe, folder / name)
    return {name: RunFolder(folder / name) for name in ("defects", "ae1")}


@pytest.fixture(scope="session")
def package(runs, tmp_path_factory):
    """A finder with its patch autoencoder, weights in half precision, the score calibrated; not to be changed."""
    from spm_training.graphs.base import Calibration

    folder = tmp_path_factory.mktemp("models") / "defects"
    calibration = Calibration((0.0, 0.5, 1.0), (0.0, 0.3, 1.0))
    options = ExportOptions("1.2.3", half=True, calibration=calibration, attachments={"ae1": runs["ae1"]})
    export_run(runs["defects"], folder, options)
    return load_package(folder)
