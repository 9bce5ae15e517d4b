"""The second apex where a network says it is, and what is told of the tip."""

import numpy as np
import pytest

from spm_runtime.pipelines.relief import EVIDENCE, HALF, PAIR_HEIGHTS, TIP_PX, tip_heights, visible_tip
from spm_runtime.pipelines.tip_drawn import CODE_WIDTH, TIP_FAMILIES, tip_code, with_second_apex

OFFSET = (-6, 9)


@pytest.fixture
def single():
    y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    return visible_tip((-0.03 * (y**2 + x**2)).astype(np.float32), 1.0)


def said(chance, at):
    """Probabilities of a second apex: some there and one pixel on, the rest nowhere in particular."""
    second = np.full((TIP_PX, TIP_PX), (1 - chance) / TIP_PX**2, np.float32)
    second[HALF + at[0], HALF + at[1]] += 0.6 * chance
    second[HALF + at[0], HALF + at[1] + 1] += 0.4 * chance
    return second


def evidence(lower, at):
    maps = np.zeros((len(EVIDENCE), TIP_PX, TIP_PX), np.float32)
    maps[EVIDENCE.index(f"pair, {lower:g} lower"), HALF + at[0], HALF + at[1]] = -2
    return maps


@pytest.mark.parametrize("lower", PAIR_HEIGHTS)
def test_the_second_apex_is_the_first_moved_and_as_low_as_the_evidence_says(single, lower):
    drawn = with_second_apex(single, said(0.9, OFFSET), evidence(lower, OFFSET))
    heights, first = tip_heights(drawn, 1.0), tip_heights(single, 1.0)
    assert heights[HALF + OFFSET[0], HALF + OFFSET[1]] == pytest.approx(-lower, abs=1e-5)
    assert heights[HALF, HALF] == 0
    np.testing.assert_allclose(drawn, np.maximum(single, np.roll(single, OFFSET, (0, 1)) * np.exp(-lower)), atol=1e-6)
    assert (heights >= first).all()


@pytest.mark.parametrize(("chance", "at"), [(0.1, OFFSET), (0.95, (0, 0))])
def test_nothing_is_drawn_on_a_faint_hope(single, chance, at):
    np.testing.assert_array_equal(with_second_apex(single, said(chance, at), evidence(0.1, at)), single)


def test_an_apex_at_the_rim_is_drawn_as_far_as_it_goes(single):
    drawn = with_second_apex(single, said(0.9, (-HALF, HALF - 1)), evidence(0.0, (-HALF, HALF - 1)))
    assert drawn[0, -2] == 1
    assert drawn.shape == single.shape


def test_the_code_tells_families_numbers_and_the_picture(single):
    maps = evidence(0.1, OFFSET)
    maps[-2:] = np.array([-1.5, -0.5])[:, None, None]
    families = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    further = np.ones((3, TIP_PX, TIP_PX), np.float32)
    code = tip_code(families, np.concatenate([maps, further]), single)
    assert code.shape == (CODE_WIDTH,)
    np.testing.assert_allclose(code[: TIP_FAMILIES + 2], [0.4, 0.3, 0.2, 0.1, -1.5, -0.5])
    blocks = code[TIP_FAMILIES + 2 :].reshape(8, 8)
    assert blocks.sum() * 64 == pytest.approx(float(single.sum()), rel=1e-5)
    assert blocks[3, 3] == blocks.max()
