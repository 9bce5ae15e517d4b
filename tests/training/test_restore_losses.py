"""The losses of restorers: SSIM against scikit-image, slopes by hand, gradients that lead to the truth."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as reference

from spm_training.restore_losses import gradient_error, restore_loss, structural_similarity


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def images(shape=(3, 1, 40, 57), noise=0.1, seed=0):
    """Smooth images in [0, 1] and the same with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[2], : shape[3]]
    waves = [0.5 + 0.5 * np.sin(y / (3 + n) + x / 5) * np.cos(x / (4 + n)) for n in range(shape[0])]
    clean = np.stack(waves)[:, None].astype(np.float32)
    return clean, (clean + noise * rng.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("data_range", [1.0, 0.3])
def test_ssim_is_that_of_scikit_image(noise, data_range):
    clean, noisy = images(noise=noise)
    found = structural_similarity(torch.from_numpy(noisy), torch.from_numpy(clean), data_range=data_range)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": data_range}
    expected = [reference(b[0], a[0], **settings) for a, b in zip(clean, noisy, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_ssim_stays_exact_under_autocast():
    clean, noisy = (torch.from_numpy(one) for one in images())
    before = structural_similarity(noisy, clean)
    with torch.autocast("cpu", torch.bfloat16):
        inside = structural_similarity(noisy, clean)
    assert torch.equal(inside, before)


@pytest.mark.parametrize(
    "shapes", [((1, 1, 10, 20), (1, 1, 10, 20)), ((1, 1, 20, 20), (1, 1, 20, 21)), ((1, 2, 20, 20),) * 2]
)
def test_ssim_refuses_what_it_cannot_compare(shapes):
    with pytest.raises(ValueError, match="expected equal shapes"):
        structural_similarity(*(torch.zeros(shape) for shape in shapes))


def test_the_error_of_the_slopes_by_hand():
    ramp = torch.arange(6.0)[None, None, None, :].expand(1, 1, 5, 6)
    assert gradient_error(2 * ramp).item() == pytest.approx(1.0)  # 2 along rows, 0 along columns
    assert gradient_error(torch.full_like(ramp, 3.0)).item() == 0.0


def test_errors_count_in_the_unit_of_each_image():
    clean, error = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    unit = torch.tensor([0.5, 4.0]).reshape(2, 1, 1, 1)
    plain = restore_loss(clean + error / unit, clean, mae=1, ssim=0, gradient=1)
    counted = restore_loss(clean + error, clean, mae=1, ssim=0, gradient=1, unit=unit)
    torch.testing.assert_close(counted["loss"], plain["loss"])


def test_the_loss_is_the_weighted_sum_of_its_terms():
    clean, noisy = (torch.from_numpy(one) for one in images())
    terms = restore_loss(noisy, clean, mae=2.0, ssim=0.5, gradient=3.0)
    assert set(terms) == {"loss", "mae", "dissimilarity", "gradient"}
    expected = 2.0 * terms["mae"] + 0.5 * terms["dissimilarity"] + 3.0 * terms["gradient"]
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["mae"], (noisy - clean).abs().mean())
    assert restore_loss(clean, clean, mae=1.0, ssim=1.0, gradient=1.0)["loss"].item() == pytest.approx(0, abs=1e-6)


def test_heights_below_zero_count_as_those_above():
    """Normalised heights lie around zero; the loss knows them up to a constant that both share."""
    clean, noisy = (torch.from_numpy(one) for one in images())
    at = restore_loss(noisy, clean, mae=1.0, ssim=1.0, gradient=1.0)["loss"]
    below = restore_loss(noisy - 0.5, clean - 0.5, mae=1.0, ssim=1.0, gradient=1.0)["loss"]
    torch.testing.assert_close(below, at, rtol=1e-4, atol=1e-5)


def test_equal_shares_of_a_batch_give_equal_shares_of_the_loss():
    clean, noisy = (torch.from_numpy(one) for one in images())
    whole = restore_loss(noisy, clean, mae=1.0, ssim=1.0, gradient=1.0)
    each = [restore_loss(noisy[i : i + 1], clean[i : i + 1], mae=1.0, ssim=1.0, gradient=1.0) for i in range(3)]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in each]).mean())


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 1, 1)])
def test_following_the_gradient_leads_to_the_clean_image(weights):
    clean, noisy = (torch.from_numpy(one) for one in images(noise=0.2))
    guess = noisy.clone().requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.01)
    for _ in range(60):
        loss = restore_loss(guess, clean, **dict(zip(("mae", "ssim", "gradient"), weights, strict=True)))["loss"]
        optimiser.zero_grad()
        loss.backward()
        assert torch.isfinite(guess.grad).all()
        optimiser.step()
    error = (guess.detach() - clean).abs().mean()
    assert error < 0.2 * (noisy - clean).abs().mean()
