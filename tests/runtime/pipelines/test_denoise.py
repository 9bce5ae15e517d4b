"""The denoise pipeline with networks that know the answer: what is lost, moved or seamed is the pipeline's own."""

from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spm_runtime.errors import ModelError
from spm_runtime.pipelines import tiling
from spm_runtime.pipelines.denoise import denoise_scan
from spm_runtime.pipelines.denoise_view import denoise_view
from spm_runtime.pipelines.fourier_wiener import fourier_wiener, with_filtered, without_residue
from spm_runtime.results import ModelReference
from spm_runtime.scan import Scan

SIDE, STRIDE = 17, 4


class Network:
    """Answers by a rule, ``(B, 1, H, W)`` to the same shape."""

    provider = "CPUExecutionProvider"

    def __init__(self, rule=lambda seen: seen, *, kind="image", outputs=("denoised",), **facts) -> None:
        self.rule, self.warnings = rule, ("a card is there",)
        facts = {"kind": kind, **({"patch_px": SIDE, "stride_px": STRIDE} if kind == "patch" else {}), **facts}
        self.package = SimpleNamespace(
            name="denoise", task="denoise", folder=Path("denoise"), reference=ModelReference("denoise", "1", "0" * 64),
            modalities=("stm",), pixel_size_nm=(0.01, 0.2), size_multiple=8, halo_px=8,
            inputs=(SimpleNamespace(id=kind),), outputs=tuple(SimpleNamespace(id=name) for name in outputs),
            settings=MappingProxyType(facts),
        )  # fmt: skip
        self.calls = []

    def run(self, inputs):
        ((name, seen),) = inputs.items()
        assert name == self.package.settings["kind"]
        assert seen.dtype == np.float32
        assert np.isfinite(seen).all()
        if name == "patch":
            assert seen.shape[1:] == (1, SIDE, SIDE)
        else:
            assert all(size % 8 == 0 for size in seen.shape[2:])
        self.calls.append(seen.shape)
        return {"denoised": self.rule(seen).astype(np.float32), "latent": np.zeros((len(seen), 10), np.float32)}


def mean3(seen):
    return ndimage.uniform_filter(seen, (0, 0, 3, 3), mode="nearest")


def patch_mean(seen):
    return np.broadcast_to(seen.mean(axis=(2, 3), keepdims=True), seen.shape)


def scan_of(image, **facts):
    return Scan(image, **{"unit": "m", "pixel_size_nm": (0.05, 0.05), "modality": "stm", "channel": "Z", **facts})


def lattice(shape=(70, 90)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.cos(2 * np.pi * y / 9) + np.cos(2 * np.pi * x / 11)


def run(image, network, **facts):
    scan = scan_of(image, **facts)
    result = denoise_scan(scan, network.package, network, {"strength": 1.0})
    (layer,) = result.maps
    assert (layer.name, layer.unit, layer.data.dtype) == ("denoised", scan.unit, np.float32)
    assert layer.data.shape == scan.shape
    np.testing.assert_array_equal(np.isfinite(layer.data), scan.valid)
    return layer.data, result


@pytest.mark.parametrize("kind", ["image", "patch"])
@pytest.mark.parametrize(
    ("unit", "gain", "offset", "slope"),
    [("m", 1e-9, 1e-6, 0.0), ("A", 1e-12, 0.0, 0.1), ("", 300.0, -40.0, -0.05), ("V", 1.0, 5.0, 2.0)],
)
def test_a_network_that_changes_nothing_gives_back_the_scan_its_unit_its_offset_and_its_tilt(
    kind, unit, gain, offset, slope
):
    y, x = np.mgrid[:70, :90]
    image = (gain * (lattice() + slope * (y - 2 * x)) + offset).astype(np.float32)
    found, result = run(image, Network(kind=kind), unit=unit)
    np.testing.assert_allclose(found, image, rtol=0, atol=1e-5 * gain + 2e-7 * abs(offset))
    assert result.quantities["taken_away_rms"] < 1e-4
    assert result.task == "denoise"
    assert result.warnings == ("a card is there",)
    assert result.parameters == {"strength": 1.0}
    assert list(result.timings_s) == ["levelling", "network", *(["residue"] if kind == "image" else [])]


@pytest.mark.parametrize("kind", ["image", "patch"])
def test_the_plane_of_a_tilted_scan_stays_when_all_is_taken_away(kind):
    y, x = np.mgrid[:90, :110]
    image = (lattice((90, 110)) + 0.5 * y - 0.25 * x + 100).astype(np.float32)
    found, _ = run(image, Network(lambda seen: 0 * seen, kind=kind))
    slopes = [np.polyfit(np.arange(n), found.mean(axis=1 - axis), 1)[0] for axis, n in enumerate(found.shape)]
    np.testing.assert_allclose(slopes, (0.5, -0.25), atol=0.01)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["image", "patch"]),
    height=st.integers(1, 45),
    width=st.integers(1, 45),
    missing=st.sampled_from([0.0, 0.2, 0.98, 1.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_size_and_any_missing_pixels(kind, height, width, missing, seed):
    rng = np.random.default_rng(seed)
    image = 1e-9 * rng.standard_normal((height, width)) + 1e-6
    image[rng.random(image.shape) < missing] = np.nan
    found, _ = run(image, Network(kind=kind))
    there = np.isfinite(image)
    np.testing.assert_allclose(found[there], image[there].astype(np.float32), atol=1e-12)


@pytest.mark.parametrize("kind", ["image", "patch"])
@pytest.mark.parametrize("value", [0.0, 1e-6, np.nan])
def test_a_constant_scan_stays_as_it_is(kind, value):
    image = np.full((30, 40), value, np.float32)
    found, result = run(image, Network(mean3, kind=kind))
    np.testing.assert_allclose(found, image, rtol=1e-6)
    assert result.quantities.get("noise_before", 0.0) == 0.0


def test_nothing_is_said_of_a_scan_without_pixels():
    _, result = run(np.full((30, 40), np.nan), Network())
    assert result.quantities == {}


def test_tiles_equal_the_whole(monkeypatch, rng):
    image = lattice((300, 210)) + 0.3 * rng.standard_normal((300, 210))
    whole = Network(lambda seen: mean3(mean3(seen)))
    expected, _ = run(image, whole)
    assert len(whole.calls) == 4  # an image and its mirror images
    tiled = Network(whole.rule)
    run_tiled = tiling.run_tiled
    monkeypatch.setattr("spm_runtime.pipelines.turning.run_tiled", lambda *given: run_tiled(*given, tile_px=64))
    found, _ = run(image, tiled)
    assert len(tiled.calls) > 48
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_a_small_scan_is_seen_with_its_mirror_images_and_a_large_one_as_it_is(rng):
    # A network that moves everything by a pixel to the right and down.
    network = Network(lambda seen: np.roll(seen, (1, 1), axis=(2, 3)))
    image = lattice((64, 96)) + 0.1 * rng.standard_normal((64, 96))  # whole windows of the residue
    found, _ = run(image, network)
    for axis in (0, 1):
        mirrored, _ = run(np.flip(image, axis), network)
        np.testing.assert_allclose(np.flip(mirrored, axis), found, atol=1e-5)
    network.calls.clear()
    run(lattice((640, 640)), network)
    assert len(network.calls) == 1


def seam_ratios(image, stride=STRIDE):
    """Mean square of the differences between columns, and rows, at each place of the stride over that of all."""
    inner = image[2 * SIDE : -2 * SIDE, 2 * SIDE : -2 * SIDE].astype(np.float64)
    ratios = []
    for turned in (inner, inner.T):
        squares = (np.diff(turned, axis=1) ** 2).mean(axis=0)
        squares = squares[: len(squares) // stride * stride].reshape(-1, stride).mean(axis=0)
        ratios.append(squares / squares.mean())
    return np.concatenate(ratios)


def components(image, count=10):
    """An autoencoder of patches with so many latent numbers: the principal components of the patches."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE))[::3, ::3].reshape(-1, SIDE * SIDE)
    basis = np.linalg.svd(windows - windows.mean(), full_matrices=False)[2][:count]

    def rule(seen):
        flat = seen.reshape(len(seen), -1)
        return (flat @ basis.T @ basis).reshape(seen.shape)

    return rule


def test_patches_leave_no_seams(rng):
    noise = rng.standard_normal((400, 440))
    image = lattice(noise.shape) + noise

    def raised(seen):
        return mean3(seen) + 0.2 * rng.standard_normal((len(seen), 1, 1, 1))

    # Means of whole patches are the worst case: nothing but what differs from patch to patch is left.
    ten = components(denoise_view(image).image)
    for seen, rule, most in ((image, ten, 0.03), (image, raised, 0.03), (noise, patch_mean, 0.08)):
        found, _ = run(seen, Network(rule, kind="patch"))
        assert np.abs(seam_ratios(found) - 1).max() < most
    # Patches laid side by side do leave some.
    means = image.reshape(100, 4, 110, 4).mean(axis=(1, 3))
    assert np.abs(seam_ratios(np.kron(means, np.ones((4, 4)))) - 1).max() > 0.5


def test_every_pixel_is_asked_of_patches_and_they_come_in_bounded_numbers(rng):
    image = rng.random((300, 230))
    network = Network(patch_mean, kind="patch")
    run(image, network)
    assert max(count for count, *_ in network.calls) <= 2048
    assert sum(count for count, *_ in network.calls) == 72 * 55  # 283 and 213 are no multiples of 4: one more each
    raised, _ = run(image, Network(lambda seen: seen + 0.25, kind="patch"))  # within the part that is linear
    np.testing.assert_allclose(raised - image, 0.25 * denoise_view(image).scale, rtol=1e-3)


def test_a_network_sees_the_filtered_scan_beside_the_scan(rng):
    seen = []
    image = lattice((70, 90)) + rng.normal(0, 0.2, (70, 90))
    network = Network(lambda given: (seen.append(given), given[:, 1:2])[1], windows_px=[16, 32])
    denoised, _ = run(image, network)
    view = denoise_view(image.astype(np.float32))
    np.testing.assert_allclose(seen[0][0, :, :70, :90], with_filtered(view.image, (16, 32)), atol=1e-6)
    filtered = without_residue(fourier_wiener(view.image, 16), view.image)
    np.testing.assert_allclose(denoised, view.restored(filtered), atol=1e-5)


@pytest.mark.parametrize("fill", [np.nan, 0.0, 0.3, "last line"])
@pytest.mark.parametrize("kind", ["image", "patch"])
def test_a_scan_that_was_not_finished_is_denoised_as_what_was_measured(fill, kind, rng):
    measured = (lattice((41, 90)) + 0.1 * rng.standard_normal((41, 90)) + 2).astype(np.float32)
    scan = np.full((96, 90), np.nan, np.float32)
    scan[:41] = measured
    scan[41:] = measured[-1] if fill == "last line" else fill
    facts = {"kind": kind} if kind == "patch" else {"kind": kind, "windows_px": [32, 64]}
    network = Network(patch_mean if kind == "patch" else lambda seen: mean3(seen[:, :1]), **facts)
    found, result = run(scan, network)
    expected, alone = run(measured, network)
    np.testing.assert_array_equal(found[:41], expected)
    np.testing.assert_array_equal(found[41:], scan[41:])
    assert result.quantities == alone.quantities


def test_the_noise_and_what_is_taken_away_are_told(rng):
    sigma = 0.05e-9
    clean = 1e-9 * ndimage.gaussian_filter(rng.standard_normal((200, 240)), 6) * 20
    image = clean + sigma * rng.standard_normal(clean.shape)
    scale = denoise_view(image).scale
    found, result = run(image, Network(mean3))
    known = result.quantities
    assert known["noise_before_nm"] == pytest.approx(0.05, rel=0.05)
    assert known["noise_before"] == pytest.approx(sigma / scale, rel=0.05)
    # A mean over nine leaves a ninth of the variance.
    assert known["taken_away_rms_nm"] == pytest.approx(0.05 * np.sqrt(8 / 9), rel=0.05)
    assert known["taken_away_rms"] == pytest.approx(np.sqrt(np.mean((found - image) ** 2)) / scale, rel=1e-3)
    _, current = run(image, Network(mean3), unit="A")
    assert set(current.quantities) == {"noise_before", "taken_away_rms"}


def test_a_scan_unlike_those_of_the_training_is_denoised_and_said_to_be():
    _, result = run(lattice(), Network(), pixel_size_nm=(1.0, 1.0), modality="stem")
    said = " ".join(result.warnings)
    assert "pixel size 1 nm is outside" in said
    assert "not trained on STEM" in said
    _, result = run(lattice(), Network(), pixel_size_nm=None, modality="unknown")
    assert result.warnings == ("a card is there",)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"kind": "video"}, "kind 'video', expected 'image' or 'patch'"),
        ({"outputs": ("latent",)}, "outputs latent, expected one with the name denoised"),
        ({"kind": "patch", "stride_px": 18}, "stride_px 18"),
        ({"kind": "patch", "patch_px": None}, "patch_px None"),
        ({"windows_px": [7]}, r"windows_px \[7\], expected a list of even numbers"),
        ({"windows_px": 8}, "windows_px 8, expected a list of even numbers"),
    ],
)
def test_a_package_that_lacks_something_is_refused_by_name(facts, words):
    with pytest.raises(ModelError, match=words) as caught:
        run(lattice(), Network(**facts))
    assert "rdf.yaml" in str(caught.value)
    assert "Export the model again" in str(caught.value)
