"""Real scans of atomic force microscopes, restored without a network."""

import numpy as np
import pytest

import spm_runtime as spm
from spm_runtime.errors import AdatomError, ParameterError


def usable(folder):
    """Default channels of all files that can be opened here."""
    for path in sorted(folder.iterdir()):
        try:
            yield spm.open(path)
        except AdatomError:  # an extra that is not installed, a container of the old kind
            continue


@pytest.mark.slow
def test_every_topography_is_restored_in_its_own_heights(real_data, tmp_path):
    count = 0
    for scan in usable(real_data / "afm"):
        result = spm.analyse(scan, "restore", model="classical")
        found = {layer.name: layer.data for layer in result.maps}
        span = np.ptp(scan.image[scan.valid])
        np.testing.assert_array_equal(np.isfinite(found["restored"]), scan.valid)
        lowered = (scan.image - found["restored"])[scan.valid]
        assert 0 <= lowered.min() <= lowered.max() < span  # a tip takes nothing away from a surface
        assert found["restored"].shape == found["certainty"].shape == scan.shape
        assert (result.maps[0].unit, result.tip.unit) == (scan.unit, scan.unit)
        assert 0.5 < result.quantities["certain_share"] < 1
        assert result.quantities["rms_change_nm"] < 0.2 * span * 1e9
        if count % 3 == 0:
            result.save(tmp_path / scan.path.name, gwy=True)
        count += 1
    assert count >= 4


@pytest.mark.slow
def test_every_other_channel_is_refused_by_its_name(real_data):
    seen = set()
    for path in sorted((real_data / "afm").iterdir()):
        try:
            scans = list(spm.read_scans(path))
        except AdatomError:
            continue
        for scan in scans:
            is_height = any(word in scan.channel for word in ("Height", "Topography", "Z-Axis"))
            if is_height:
                continue
            seen.add(scan.channel)
            with pytest.raises(ParameterError, match=scan.channel):
                spm.analyse(scan, "restore", model="classical")
    assert {"Amplitude", "Deflection", "Phase"} <= seen
