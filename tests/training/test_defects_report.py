"""Tables of an evaluation of defects, real annotated scans, and the command from the words to the files."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from spm_runtime.errors import AdatomError, ParameterError
from spm_training import cli
from spm_training.defects import run
from spm_training.defects.annotated import DETAILS, SUFFIX, AnnotatedSet, read_annotated_scans
from spm_training.defects.annotated_score import score_annotated_set
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
    every = np.concatenate([score.score for score in scores["truth"]])
    # Every mark is right, so each score is too low by what it lacks of 1.
    assert headline["calibration_error"] == pytest.approx(1 - every.mean(), abs=1e-4)
    text = report.markdown()
    assert "spm-train evaluate defects --images 2 --side-px 128 --family si111-7x7" in text
    assert "| noise: low | 2 |" in text
    assert "V-measure of the classes over the matched defects: 1.000" in text
    assert "| mean score | share true | marks |" in text
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
    assert DefectReport(Subject("nothing", "1", "0" * 64), SMALL, scores["nothing"]).reliability is None


def test_the_scores_of_a_peer_are_an_order_and_no_probability(scores):
    report = DefectReport(Subject("steps"), SMALL, scores["steps"])
    assert report.reliability is None
    assert "calibration_error" not in report.headline()
    assert "mean score" not in report.markdown()


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
    assert not scan.size_is_told
    finders = {
        "the truth": lambda _: marks(scan.yx_px, 3.0),
        "half": lambda _: marks(np.array([[50.0, 61.0], [120.0, 120.0], [10.0, 11.0]]), 3.0),
    }
    told = []
    scores = score_annotated_set(AnnotatedSet("lab", "Ours", "Si.", [scan]), finders, on_image=told.append)
    assert len(told) == 2
    assert scores.by_finder["the truth"][0].counts.f1 == 1.0
    counts = scores.by_finder["half"][0].counts
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (1, 1, 1)
    text = scores.markdown()
    assert text.startswith("## Ours\n")
    assert "| the truth | 1.000 [1.00, 1.00] | 1.000 / 1.000 | 2 / 0 / 0 | – |" in text
    assert "| half | 0.500" in text
    assert "\nSi. Matched as" in text
    document = scores.document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["finders"][1]["scans"][0]["missed"] == 1


def test_steps_ignored_places_and_the_pixel_size_stand_in_a_file_beside_the_table(real_folder, tmp_path):
    for file in real_folder.iterdir():
        shutil.copy(file, tmp_path)
    corner = {"reason": "creep", "yx_px": [[-1, -1], [-1, 30], [30, 30], [30, -1]]}
    facts = {"pixel_size_nm": 0.05, "steps": [[[0, 100], [127, 100]]], "ignore": [corner]}
    (tmp_path / f"scan.tif{DETAILS}").write_text(json.dumps(facts), encoding="utf-8")
    (scan,) = read_annotated_scans(tmp_path)
    assert scan.scan.pixel_size_nm == (0.05, 0.05)
    assert not scan.size_is_told  # the file has one, if another
    assert scan.step_nm == pytest.approx(127 * 0.05)
    finder = {"it": lambda _: marks(np.array([[20.0, 10.0], [60.0, 101.0], [60.0, 40.0]]), 3.0)}
    (score,) = score_annotated_set(AnnotatedSet("lab", "Ours", "", [scan]), finder).by_finder["it"]
    assert (score.counts.false_positive, score.at_steps) == (2, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Invalid JSON"),
        ('{"pixel_nm": 1}', "pixel_nm: Extra inputs"),
        ('{"pixel_size_nm": -1}', "pixel_size_nm: Input should be greater than 0"),
        ('{"steps": [[[1, 2]]]}', "steps.0: List should have at least 2"),
        ('{"ignore": [{"yx_px": [[1, 2], [3, 4]]}]}', "ignore.0.yx_px: List should have at least 3"),
    ],
)
def test_further_facts_that_cannot_be_used_are_named(real_folder, tmp_path, content, said):
    for file in real_folder.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / f"scan.tif{DETAILS}").write_text(content, encoding="utf-8")
    with pytest.raises(ParameterError, match=said):
        read_annotated_scans(tmp_path)


def test_a_scan_without_a_pixel_size_needs_one_in_the_annotation(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((64, 64), np.float32))
    (tmp_path / f"scan.tif{SUFFIX}").write_text("y_px,x_px,radius_px\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=r'Give "pixel_size_nm" in scan\.tif\.defects\.json'):
        read_annotated_scans(tmp_path)
    (tmp_path / f"scan.tif{DETAILS}").write_text('{"pixel_size_nm": 0.1}', encoding="utf-8")
    (scan,) = read_annotated_scans(tmp_path)
    assert scan.size_is_told


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


@pytest.fixture
def shipped(monkeypatch, real_folder):
    """A set in place of SPIEPy's images."""
    monkeypatch.setattr(
        run, "spiepy_set", lambda: AnnotatedSet("spiepy", "Shipped scans", "", read_annotated_scans(real_folder))
    )


def test_the_command_scores_the_peers_alone(peers, shipped, monkeypatch, capsys, tmp_path, real_folder):
    words = ("--images", 1, "--side-px", 64, "--leave-out", "unnamed", "--real", real_folder, "--out", tmp_path)
    code, out, err = call(monkeypatch, capsys, "evaluate", "defects", "--peers", *words)
    assert code == 0, err
    assert "## Shipped scans" in out
    assert "## Real scans: real" in out
    assert "| nothing | 0.000 [0.00, 0.00]" in out
    assert "| told | 1.00 / 1.00 / 1.00 |" in out
    own = (tmp_path / "evaluation-nothing.md").read_text(encoding="utf-8")
    assert "### Shipped scans" in own
    # A bound that is told the truth of a simulated image says nothing of a real one.
    assert "Shipped" not in (tmp_path / "evaluation-told.md").read_text(encoding="utf-8")
    assert "## Shipped scans" in (tmp_path / "comparison-defects.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison-defects.json", "comparison-defects.md", "evaluation-nothing.json", "evaluation-nothing.md",
        "evaluation-told.json", "evaluation-told.md", "real-defects.json", "real-defects.md",
    ]  # fmt: skip


@pytest.mark.parametrize("more", [True, False])
def test_real_scans_alone(peers, shipped, monkeypatch, capsys, tmp_path, real_folder, more):
    words = ("--real", real_folder) if more else ()
    code, out, _ = call(
        monkeypatch, capsys, "evaluate", "defects", "--peers", "--images", 0, *words, "--out", tmp_path / "new"
    )
    assert code == 0
    assert "Comparison" not in out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["real-defects.json", "real-defects.md"]
    sets = json.loads((tmp_path / "new" / "real-defects.json").read_text(encoding="utf-8"))["sets"]
    assert [one["set"] for one in sets] == (["spiepy", "folder"] if more else ["spiepy"])


def test_without_spiepy_the_command_says_so_and_goes_on(peers, monkeypatch, capsys, tmp_path):
    def missing():
        raise AdatomError("not installed")

    monkeypatch.setattr(run, "spiepy_set", missing)
    words = ("--images", 1, "--side-px", 64, "--family", "tmd", "--out", tmp_path)
    code, out, _ = call(monkeypatch, capsys, "evaluate", "defects", "--peers", *words)
    assert code == 0
    assert "The images of SPIEPy are not scored: not installed" in out
    assert not (tmp_path / "real-defects.md").exists()
    code, _, err = call(monkeypatch, capsys, "evaluate", "defects", "--peers", "--images", 0, "--out", tmp_path)
    assert code == 2
    assert "nothing to score" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("defects",), "no --peers"),
        (("defects", "atoms", "--peers"), "packages of the tasks atoms, defects"),
        (("defects", "--peers", "--family", "square"), "--family square: unknown; expected one of si001-2x1-h"),
        (("defects", "--peers", "--family", "tmd", "--leave-out", "tmd"), "no family is left"),
        (("defects", "--fit-calibration", "k.json"), "0 packages; expected one"),
        (("defects", "--fit-calibration", "k.json", "--images", "0"), "nothing to score"),
        (("defects", "--peers", "--spacing-px", "5", "9"), "Leave it out"),
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
