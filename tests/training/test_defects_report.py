"""Tables of an evaluation of defects, real annotated scans, and the command from the words to the files."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from spm_runtime.errors import ParameterError
from spm_training import cli
from spm_training.defects import run
from spm_training.defects.annotated import (
    SUFFIX,
    annotated_markdown,
    read_annotated_scans,
    score_annotated_scans,
)
from spm_training.defects.evaluate import evaluate_all, marks
from spm_training.defects.report import DefectComparison, DefectReport, Subject
from spm_training.defects.scenes import DefectOptions
from spm_training.peers.defects import DefectPeer, Peers
from spm_training.simulate.surfaces import DEFECT_CLASSES, FAMILIES, NOISE_LEVELS

SMALL = DefectOptions(images=2, side_px=128, families=("si111-7x7", "tmd", "au111"))


def truth_of(scene):
    chosen = scene.required
    names = [DEFECT_CLASSES[kind] for kind in scene.defects.kind[chosen]]
    return marks(scene.defects.yx_px[chosen], scene.defects.radius_px[chosen], names=names)


def at_steps(scene):
    """One false mark on a step, and one in the corner of every surface without defects."""
    places = np.argwhere(scene.steps)[:1].astype(float)
    return marks(places if len(scene.defects) else np.concatenate([places, [[0.0, 0.0]]]), 2.0)


def nothing(_):
    return marks(np.empty((0, 2)), 1.0)


@pytest.fixture(scope="module")
def scores():
    return evaluate_all({}, SMALL, oracles={"truth": truth_of, "steps": at_steps, "nothing": nothing})


def test_the_truth_has_all_figures_at_their_best(scores):
    report = DefectReport(Subject("defects", "1.0.0", "0" * 64), SMALL, scores["truth"])
    assert set(report.rows) == {
        "all",
        *(f"noise: {n}" for n in NOISE_LEVELS),
        *(f"family: {f}" for f in SMALL.families),
    }
    for row in report.rows.values():
        assert row.f1.value == row.precision == row.recall == 1.0
        assert row.false_per_empty in (0.0,) or np.isnan(row.false_per_empty)
    everything = report.rows["all"]
    assert (everything.images, everything.empty_images) == (SMALL.total // 2, SMALL.total // 2)
    assert everything.false_per_100_nm_step == 0.0
    assert everything.step_nm > 0
    assert everything.border_recall == 1.0
    assert all(np.isnan(recall) if not count else recall == 1.0 for recall, count in report.recalls.values())
    assert report.recalls["dopant halos, both kinds"][1] >= report.recalls["faint dopant halos"][1]
    assert report.v_measure.value == 1.0
    headline = report.headline()
    assert headline["f1_low"] == headline["v_measure"] == 1.0
    text = report.markdown()
    assert "spm-train evaluate defects --images 2 --side-px 128 --family si111-7x7" in text
    assert "| noise: low | 2 |" in text
    assert "V-measure of the classes over the matched defects: 1.000" in text
    assert "nan" not in text


def test_false_marks_are_counted_where_they_lie(scores):
    report = DefectReport(Subject("steps"), SMALL, scores["steps"])
    everything = report.rows["all"]
    with_steps = sum(score.step_nm > 0 for score in scores["steps"])
    false_at_steps = sum(score.false_at_steps for score in scores["steps"])
    assert 0 < false_at_steps <= with_steps + SMALL.total // 2
    assert everything.false_per_100_nm_step == pytest.approx(100 * false_at_steps / everything.step_nm)
    assert 1.0 <= everything.false_per_empty <= 2.0


def test_nothing_found_is_no_v_measure(scores):
    report = DefectReport(Subject("nothing"), SMALL, scores["nothing"])
    assert report.rows["all"].f1.value == 0.0
    assert "V-measure" not in report.markdown()
    assert "v_measure" not in report.headline()


def test_families_never_trained_on_have_a_row(scores):
    subject = Subject("defects", families=("tmd",))
    report = DefectReport(subject, SMALL, scores["truth"])
    own = sum(score.family != "tmd" and not score.empty for score in scores["truth"])
    assert report.rows["families never trained on"].images == own


def test_files_are_written_and_numbers_that_are_none_are_null(scores, tmp_path):
    reports = [
        DefectReport(Subject("defects", "1.0.0"), SMALL, scores["truth"]),
        DefectReport(Subject("forest", places=False, description="told the places"), SMALL, scores["truth"]),
        DefectReport(Subject("filter", classes=False, empty=False, description="a bound"), SMALL, scores["nothing"]),
    ]
    comparison = DefectComparison(reports, {"UCL": "no networks"})
    files = [*reports[2].save(tmp_path), *comparison.save(tmp_path)]
    assert [file.name for file in files] == [
        "evaluation-filter.json", "evaluation-filter.md", "comparison-defects.json", "comparison-defects.md",
    ]  # fmt: skip
    document = json.loads(files[2].read_text(encoding="utf-8"))
    assert document["reports"][2]["v_measure"]["value"] is None
    assert document["not_run"] == {"UCL": "no networks"}
    text = files[3].read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    assert rows["defects 1.0.0"][0] == "1.00 / 1.00 / 1.00"
    assert rows["forest"][:7] == ["–"] * 7
    assert rows["forest"][7] == "1.00 (1.00)"
    assert rows["filter"][2] == rows["filter"][7] == "–"
    assert "UCL was not run: no networks" in text


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory):
    """A calibrated scan, with a table of made-up defects."""
    folder = tmp_path_factory.mktemp("real")
    heights = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    tifffile.imwrite(folder / "scan.tif", heights, imagej=True, resolution=(10.0, 10.0), metadata={"unit": "nm"})
    rows = ["y_px,x_px,radius_px,class,required", "50,60,4,vacancy,1", "80.5,20,3,vacancy,1", "10,10,3,adatom,0"]
    (folder / f"scan.tif{SUFFIX}").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_real_scans_are_scored_by_the_same_rules(real_folder):
    (scan,) = read_annotated_scans(real_folder)
    assert scan.required.tolist() == [True, True, False]
    finders = {
        "truth": lambda _: marks(scan.yx_px, 3.0),
        "half": lambda _: marks(np.array([[50.0, 61.0], [120.0, 120.0], [10.0, 11.0]]), 3.0),
    }
    told = []
    scores = score_annotated_scans(finders, [scan], on_image=told.append)
    assert len(told) == 2
    assert scores["truth"][0].counts.f1 == 1.0
    counts = scores["half"][0].counts
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (1, 1, 1)
    text = annotated_markdown(scores, {"truth": "the truth", "half": "half"})
    assert "| the truth | 1.000 [1.00, 1.00] | 1.000 / 1.000 | 2 / 0 / 0 |" in text
    assert "| half | 0.500" in text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("other.tif" + SUFFIX, "y_px,x_px,radius_px\n", "is not there"),
        ("scan.tif" + SUFFIX, "y,x\n1,2\n", "expected radius_px, x_px, y_px"),
        ("scan.tif" + SUFFIX, "y_px,x_px,radius_px\n1,2,wide\n", "expected numbers"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(real_folder, tmp_path, name, content, said):
    shutil.copy(real_folder / "scan.tif", tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ParameterError, match=said):
        read_annotated_scans(tmp_path)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="no tables"):
        read_annotated_scans(tmp_path)


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["spm-train", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


@pytest.fixture
def peers(monkeypatch):
    described = [DefectPeer("nothing", "finds nothing"), DefectPeer("told", "told all", classes=True)]
    monkeypatch.setattr(
        run,
        "make_peers",
        lambda tuning: Peers(described, {"nothing": nothing}, {"told": truth_of}, {"UCL": "no networks"}),
    )
    monkeypatch.setattr(run, "list_models", lambda: iter(()))


def test_the_command_scores_the_peers_alone(peers, monkeypatch, capsys, tmp_path, real_folder):
    words = ("--images", 1, "--side-px", 64, "--leave-out", "unnamed", "--real", real_folder, "--out", tmp_path)
    code, out, err = call(monkeypatch, capsys, "evaluate", "defects", "--peers", *words)
    assert code == 0, err
    assert "| nothing | 0.000 [0.00, 0.00]" in out
    assert "| told | 1.00 / 1.00 / 1.00 |" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison-defects.json", "comparison-defects.md", "evaluation-nothing.json", "evaluation-nothing.md",
        "evaluation-told.json", "evaluation-told.md", "real-defects.md",
    ]  # fmt: skip


def test_real_scans_alone(peers, monkeypatch, capsys, tmp_path, real_folder):
    code, out, _ = call(
        monkeypatch, capsys, "evaluate", "defects", "--peers", "--images", 0, "--real", real_folder, "--out", tmp_path
    )
    assert code == 0
    assert "Comparison" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["real-defects.md"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("defects",), "no --peers"),
        (("defects", "atoms", "--peers"), "packages of the tasks atoms, defects"),
        (("defects", "--peers", "--family", "square"), "--family square: unknown; expected one of si001-2x1-h"),
        (("defects", "--peers", "--family", "tmd", "--leave-out", "tmd"), "no family is left"),
        (("defects", "--peers", "--fit-calibration", "k.json"), "Leave them out"),
        (("defects", "--peers", "--spacing-px", "5", "9"), "Leave them out"),
        (("defects", "--peers", "--real", "nowhere"), "no tables"),
    ],
)
def test_mistakes_are_named(monkeypatch, capsys, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "list_models", lambda: iter(()))
    code, _, err = call(monkeypatch, capsys, "evaluate", *words)
    assert code == 2
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_families_keep_their_order():
    known = tuple(FAMILIES)
    assert run.chosen_families((), ("tmd",), known) == tuple(name for name in known if name != "tmd")
    assert run.chosen_families(("tmd", "au111"), (), known) == ("au111", "tmd")
    assert replace(SMALL, families=known).total == SMALL.total
