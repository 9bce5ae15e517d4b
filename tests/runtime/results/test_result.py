"""What a pipeline returns."""

import dataclasses

import numpy as np
import pytest


def test_classes_are_counted_in_the_order_of_their_names(make_defects):
    defects = make_defects(
        [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], kind=[2, 0, 2], names=("vacancy", "adatom", "molecule")
    )
    assert defects.classes == {"vacancy": 1, "molecule": 2}
    assert len(defects) == 3
    assert make_defects([]).classes == {}


def test_counts_say_what_was_looked_for(make_scan, make_result, make_defects):
    scan = make_scan()
    assert make_result(scan).counts == {"atoms": 2}
    assert make_result(scan, atoms=None, defects=make_defects([(3.0, 4.0)])).counts == {"defects": 1}
    assert make_result(scan, atoms=None, defects=make_defects([])).counts == {"defects": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"area_px": np.ones(2)}, "area_px of 3 defects"),
        ({"size_px": np.ones((3, 3))}, "size_px of 3 defects"),
        ({"kind": np.array([0, 1, 3], np.int32)}, "index into 3 names"),
        ({"kind": np.array([0, -1, 2], np.int32)}, "index into 3 names"),
    ],
)
def test_a_pipelines_mistake_is_refused(make_defects, change, words):
    defects = make_defects([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], names=("vacancy", "adatom", "molecule"))
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(defects, **change)
