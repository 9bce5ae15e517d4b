import dataclasses

import numpy as np
import pytest

from spm_runtime.results import Atoms, Defects, Map, ModelReference, Result
from spm_runtime.scan import Scan


@pytest.fixture
def make_scan():
    def make(shape=(48, 64), **facts):
        y, x = np.mgrid[: shape[0], : shape[1]]
        image = np.cos(2 * np.pi * y / 8) * np.cos(2 * np.pi * x / 8) + 0.01 * y
        facts = {"unit": "m", "pixel_size_nm": (0.02, 0.03), "modality": "stm", "channel": "Z", **facts}
        return Scan(facts.pop("image", image.astype(np.float32)), **facts)

    return make


@pytest.fixture
def make_atoms():
    def make(yx, *, sublattice=None, std=0.05, width=1.5):
        yx = np.asarray(yx, dtype=np.float64).reshape(-1, 2)
        n = len(yx)
        return Atoms(
            yx_px=yx,
            score=np.linspace(0.99, 0.5, n).astype(np.float32),
            position_std_px=np.full(n, std, np.float32),
            width_px=np.full(n, width, np.float32),
            intensity=np.full(n, 1.25e-11, np.float32),
            sublattice=np.full(n, -1, np.int32) if sublattice is None else np.asarray(sublattice, np.int32),
        )

    return make


@pytest.fixture
def make_defects():
    def make(yx, *, kind=None, names=("vacancy", "adatom"), size=(6.0, 8.0), confirmed=-1, **facts):
        yx = np.asarray(yx, dtype=np.float64).reshape(-1, 2)
        n = len(yx)
        facts = {"area_px": np.full(n, 0.7 * size[0] * size[1]), "probability": np.full(n, 0.75, np.float32), **facts}
        return Defects(
            yx_px=yx,
            size_px=np.tile(np.asarray(size, np.float64), (n, 1)),
            kind=np.arange(n, dtype=np.int32) % len(names) if kind is None else np.asarray(kind, np.int32),
            names=tuple(names),
            score=np.linspace(0.99, 0.5, n).astype(np.float32),
            confirmed=np.broadcast_to(np.asarray(confirmed, np.int8), n).copy(),
            **facts,
        )

    return make


@pytest.fixture
def make_result(make_atoms):
    def make(scan, yx=((8.0, 8.0), (16.25, 24.5)), **facts):
        atoms = facts.pop("atoms") if "atoms" in facts else make_atoms(yx, sublattice=facts.pop("sublattice", None))
        return Result(
            scan,
            facts.pop("task", "atoms"),
            ModelReference("atoms", "1.2", "ab" * 32),
            "CPUExecutionProvider",
            {"threshold": 0.4, "window": 5},
            {"network": 0.02, "peaks": 0.004},
            atoms=atoms,
            maps=facts.pop("maps", (Map("confidence", np.where(scan.valid, 0.5, np.nan).astype(np.float32)),)),
            quantities=facts.pop("quantities", {"spacing_px": 8.0, "order": float("nan")}),
            warnings=facts.pop("warnings", ()),
            defects=facts.pop("defects", None),
        )

    return make


@pytest.fixture
def make_restored(make_result):
    """A restored surface: half as high, certain on the left, a tip that is a cone."""

    def make(scan, **facts):
        away = np.hypot(*np.mgrid[-7:8, -7:8]).astype(np.float32)
        certain = np.broadcast_to(np.arange(scan.shape[1]) < scan.shape[1] // 2, scan.shape)
        maps = (
            Map("restored", (scan.image / 2).astype(np.float32), scan.unit),
            Map("certainty", np.where(scan.valid, certain, np.nan).astype(np.float32)),
        )
        known = {
            "certain_share": 0.5,
            "rms_change_nm": 0.25,
            "tip_radius_nm": 12.5,
            "family_blunt": 0.2,
            "family_double": 0.8,
        }
        return dataclasses.replace(
            make_result(scan, task="restore", atoms=None, maps=maps, quantities=facts.pop("quantities", known)),
            tip=Map("tip", -away / np.float32(7), scan.unit),
            **facts,
        )

    return make


@pytest.fixture
def make_denoised(make_result):
    """A denoised image: half of what strays from the mean of the scan is taken away."""

    def make(scan, **facts):
        known = {"noise_before": 0.125, "taken_away_rms": 0.25}
        denoised = scan.image if not scan.valid.any() else (scan.image + np.nanmean(scan.image)) / 2
        return make_result(
            scan,
            task="denoise",
            atoms=None,
            maps=(Map("denoised", denoised.astype(np.float32), scan.unit),),
            quantities=facts.pop("quantities", known),
            **facts,
        )

    return make
