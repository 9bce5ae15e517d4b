import importlib.resources
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from gwyfile.objects import GwyContainer

from spm_runtime.results import Map, ModelReference, read_document, save_results
from spm_runtime.results import _files as files_module
from spm_runtime.results import _save as save_module
from spm_runtime.results._document import parameters_sha256
from spm_runtime.results._files import partial_folder, patiently, write_atomically

SCHEMA = json.loads(importlib.resources.files("spm_runtime.results").joinpath("result.schema.json").read_text("utf-8"))
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
NOTES = {"$schema", "$defs", "title", "description"}


def has_type(value, names):
    names = [names] if isinstance(names, str) else names
    return any(isinstance(value, TYPES[n]) and (n == "boolean" or not isinstance(value, bool)) for n in names)


def problems(value, schema, at="$"):
    """What JSON Schema 2020-12 objects to, for the keywords that our schema uses; any other keyword is an error."""
    checks = {
        "type": lambda s: has_type(value, s),
        "const": lambda s: value == s,
        "enum": lambda s: value in s,
        "required": lambda s: set(s) <= set(value),
        "minProperties": lambda s: len(value) >= s,
        "minItems": lambda s: not isinstance(value, list) or len(value) >= s,
        "maxItems": lambda s: not isinstance(value, list) or len(value) <= s,
        "minLength": lambda s: len(value) >= s,
        "pattern": lambda s: re.search(s, value) is not None,
        "minimum": lambda s: value is None or value >= s,
        "maximum": lambda s: value <= s,
        "exclusiveMinimum": lambda s: value > s,
        "anyOf": lambda s: any(not list(problems(value, option, at)) for option in s),
    }
    for keyword, rule in schema.items():
        if keyword in checks:
            if not checks[keyword](rule):
                yield f"{at}: {value!r} violates {keyword} {rule!r}"
                return
        elif keyword == "$ref":
            yield from problems(value, SCHEMA["$defs"][rule.removeprefix("#/$defs/")], at)
        elif keyword == "properties":
            for name in set(rule) & set(value):
                yield from problems(value[name], rule[name], f"{at}.{name}")
        elif keyword == "propertyNames":
            for name in value:
                yield from problems(name, rule, f"{at}.{name}")
        elif keyword == "additionalProperties":
            for name in set(value) - set(schema.get("properties", {})):
                yield from (
                    [f"{at}.{name}: not foreseen"] if rule is False else problems(value[name], rule, f"{at}.{name}")
                )
        elif keyword == "items":
            for index, item in enumerate(value or []):
                yield from problems(item, rule, f"{at}[{index}]")
        else:
            assert keyword in NOTES, f"the check does not know the keyword {keyword}"


def saved(folder):
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert list(problems(document, SCHEMA)) == []
    return document


def test_a_result_saves_itself(tmp_path, make_scan, make_result):
    assert make_result(make_scan()).save(tmp_path / "out") == tmp_path / "out" / "result.json"
    document = saved(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"result.json", "atoms.csv", "atoms.xyz", "confidence.tif", "overlay.png"}
    assert document["files"] == ["overlay.png"]
    assert set(document["tasks"]["atoms"]["files"]) == names - {"result.json", "overlay.png"}


def test_the_document_says_what_was_done(tmp_path, make_scan, make_result):
    scan = make_scan(warnings=("a",), direction="forward", offset_nm=(1.0, 2.0), angle_deg=30.0)
    result = make_result(scan, warnings=("b",))
    save_results(scan, [result], tmp_path, source_sha256="cd" * 32, source_name="day 1/a.sxm")
    document = saved(tmp_path)
    scan_facts, task = document["scan"], document["tasks"]["atoms"]
    assert (scan_facts["name"], scan_facts["sha256"], scan_facts["file"]) == ("day 1/a.sxm", "cd" * 32, None)
    assert (scan_facts["shape"], scan_facts["pixel_size_nm"], scan_facts["unit"]) == ([48, 64], [0.02, 0.03], "m")
    assert (scan_facts["offset_nm"], scan_facts["angle_deg"], scan_facts["warnings"]) == ([1, 2], 30, ["a"])
    assert task["model"] == {"name": "atoms", "version": "1.2", "sha256": "ab" * 32}
    assert task["parameters_sha256"] == parameters_sha256({"window": 5, "threshold": 0.4})
    assert (task["counts"], task["quantities"]) == ({"atoms": 2}, {"spacing_px": 8.0, "order": None})
    assert (task["timings_s"], task["warnings"]) == ({"network": 0.02, "peaks": 0.004}, ["b"])


@pytest.mark.parametrize(
    ("facts", "frame"),
    [
        ({}, "image"), ({"offset_nm": (1.0, 2.0)}, "image"), ({"angle_deg": 0.0}, "image"),
        ({"offset_nm": (0.0, 0.0), "angle_deg": 0.0}, "scanner"),
    ],
)  # fmt: skip
def test_the_document_names_the_frame_of_its_positions(tmp_path, make_scan, make_result, facts, frame):
    scan = make_scan(**facts)
    make_result(scan).save(tmp_path)
    assert saved(tmp_path)["scan"]["positions_frame"] == frame
    # As the positions themselves have it: from the first row to the last, y goes up in the scanner's frame.
    first, last = scan.positions_nm(np.array([[0.0, 0.0], [47.0, 0.0]]))
    assert (first[0] > last[0]) == (frame == "scanner")


def test_the_scans_file_is_hashed_and_its_folder_is_not_told(tmp_path, make_scan, make_result):
    source = tmp_path / "secret project" / "a.sxm"
    source.parent.mkdir()
    source.write_bytes(b"abc")
    make_result(make_scan(path=source)).save(tmp_path / "out")
    document = saved(tmp_path / "out")
    assert document["scan"]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (document["scan"]["file"], document["scan"]["name"]) == ("a.sxm", "a.sxm")
    assert "secret" not in (tmp_path / "out" / "result.json").read_text(encoding="utf-8")
    assert source.read_bytes() == b"abc"


def test_uncalibrated_scans_say_why_there_is_no_xyz(tmp_path, make_scan, make_result):
    make_result(make_scan(pixel_size_nm=None)).save(tmp_path)
    document = saved(tmp_path)
    assert not (tmp_path / "atoms.xyz").exists()
    assert document["scan"]["pixel_size_nm"] is None
    (warning,) = document["tasks"]["atoms"]["warnings"]
    assert "atoms.xyz" in warning
    assert "--pixel-size-nm" in warning


def test_defects_leave_a_table_maps_and_their_classes(tmp_path, make_scan, make_result, make_defects):
    scan = make_scan()
    defects = make_defects([(5, 6), (20, 30), (30, 40)], names=("vacancy", "adatom", "cluster"), kind=[1, 1, 0])
    names = ("none", *defects.names)
    maps = (
        Map("class_map", np.zeros(scan.shape, np.uint8), labels=names),
        Map("mask", np.zeros(scan.shape, bool)),
        Map("error_map", np.zeros(scan.shape, np.float32)),
    )
    make_result(scan, task="defects", atoms=None, defects=defects, maps=maps, quantities={}).save(tmp_path, gwy=True)
    task = saved(tmp_path)["tasks"]["defects"]
    assert task["counts"] == {"defects": 3}
    assert task["classes"] == {"vacancy": 1, "adatom": 2}
    assert list(task["classes"]) == ["vacancy", "adatom"]
    assert task["labels"] == {"class_map": list(names)}
    assert task["files"] == ["defects.csv", "class_map.tif", "mask.tif", "error_map.tif"]
    assert task["warnings"] == []
    assert all((tmp_path / name).is_file() for name in [*task["files"], "scan.gwy"])


def test_defects_without_calibration_say_so(tmp_path, make_scan, make_result, make_defects):
    scan = make_scan(pixel_size_nm=None)
    make_result(scan, task="defects", atoms=None, defects=make_defects([(5, 6)]), maps=()).save(tmp_path)
    (warning,) = saved(tmp_path)["tasks"]["defects"]["warnings"]
    assert "defects.csv" in warning
    assert "--pixel-size-nm" in warning


def test_defects_and_atoms_share_a_folder(tmp_path, make_scan, make_result, make_defects):
    scan = make_scan()
    mask = (Map("mask", np.zeros(scan.shape, bool)),)
    found = make_result(scan, task="defects", atoms=None, defects=make_defects([(5, 6)]), maps=mask)
    save_results(scan, [found, make_result(scan)], tmp_path)
    tasks = saved(tmp_path)["tasks"]
    assert [(name, task["counts"]) for name, task in tasks.items()] == [
        ("defects", {"defects": 1}),
        ("atoms", {"atoms": 2}),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "defects.csv", "mask.tif", "atoms.csv", "atoms.xyz", "confidence.tif", "overlay.png", "result.json",
    }  # fmt: skip


def test_a_document_of_an_earlier_version_still_fits_the_schema(tmp_path, make_scan, make_result):
    make_result(make_scan()).save(tmp_path)
    document = saved(tmp_path)
    for name in ("classes", "labels", "instead_of"):
        del document["tasks"]["atoms"][name]
    assert list(problems(document, SCHEMA)) == []


def test_several_tasks_share_a_folder(tmp_path, make_scan, make_result):
    scan = make_scan()
    other = make_result(scan, task="denoise", atoms=None, maps=(Map("denoised", scan.image, "m"),))
    save_results(scan, [make_result(scan), other], tmp_path, gwy=True, source_name="b.sxm")
    document = saved(tmp_path)
    assert set(document["tasks"]) == {"atoms", "denoise"}
    assert "denoised.tif" in document["tasks"]["denoise"]["files"]
    assert document["files"] == ["overlay.png", "scan.gwy"]


def test_a_restored_surface_leaves_its_maps_and_the_tip(tmp_path, make_scan, make_restored):
    scan = make_scan()
    make_restored(scan).save(tmp_path, gwy=True)
    document = saved(tmp_path)
    assert document["tasks"]["restore"]["files"] == ["restored.tif", "certainty.tif", "tip.tif"]
    assert document["tasks"]["restore"]["instead_of"] is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "restored.tif", "certainty.tif", "tip.tif", "overlay.png", "scan.gwy", "result.json",
    }  # fmt: skip
    with tifffile.TiffFile(tmp_path / "tip.tif") as file:
        assert file.asarray().shape == (15, 15)
        across, up = (file.pages[0].tags[name].value for name in ("XResolution", "YResolution"))
        assert across[1] / across[0] == pytest.approx(0.03, rel=1e-4)
        assert up[1] / up[0] == pytest.approx(0.02, rel=1e-4)
    fields = GwyContainer.fromfile(str(tmp_path / "scan.gwy"))
    assert [fields[f"/{number}/data/title"] for number in range(4)] == ["Z", "restored", "certainty", "tip"]
    tip = fields["/3/data"]
    assert tip.data.shape == (15, 15)
    assert (tip.xreal, tip.yreal) == pytest.approx((15 * 0.03e-9, 15 * 0.02e-9))
    assert (str(tip.si_unit_z.unitstr), fields["/1/data"].xreal) == ("m", pytest.approx(64 * 0.03e-9))


def test_a_result_says_which_model_it_is_in_place_of(tmp_path, make_scan, make_restored):
    asked = ModelReference("restore", "2.0", "cd" * 32)
    make_restored(make_scan(), instead_of=asked).save(tmp_path)
    task = saved(tmp_path)["tasks"]["restore"]
    assert task["instead_of"] == {"name": "restore", "version": "2.0", "sha256": "cd" * 32}
    assert task["model"]["name"] == "atoms"


def test_an_analysis_replaces_the_earlier_one(tmp_path, make_scan, make_result):
    make_result(make_scan()).save(tmp_path)
    (tmp_path / "my notes.txt").write_text("kept", encoding="utf-8")
    make_result(make_scan(pixel_size_nm=None), maps=()).save(tmp_path)
    saved(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "atoms.csv", "overlay.png", "my notes.txt"}


def test_an_earlier_document_never_leads_out_of_its_folder(tmp_path, make_scan, make_result):
    (tmp_path / "precious.txt").write_text("kept", encoding="utf-8")
    folder = tmp_path / "out"
    make_result(make_scan()).save(folder)
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    document["files"] += ["../precious.txt", str(tmp_path / "precious.txt"), "..", ""]
    (folder / "result.json").write_text(json.dumps(document), encoding="utf-8")
    make_result(make_scan()).save(folder)
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "kept"


def test_a_failure_while_writing_leaves_the_earlier_analysis_whole(tmp_path, make_scan, make_result, monkeypatch):
    make_result(make_scan()).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save_module, "draw_overlay", full)
    with pytest.raises(OSError, match="No space left"):
        make_result(make_scan(), [(1, 1)]).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("moves", range(4))
def test_a_failure_while_moving_leaves_no_result_json(tmp_path, make_scan, make_result, monkeypatch, moves):
    make_result(make_scan()).save(tmp_path)
    monkeypatch.setattr(files_module, "PAUSES_S", (0.0,))
    real, done = Path.replace, []

    def replace(self, target):
        if len(done) == moves:
            raise PermissionError(13, "open in another program", str(target))
        done.append(target)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError, match=r"another program has it open.*(atoms|confidence|overlay)"):
        make_result(make_scan()).save(tmp_path)
    assert read_document(tmp_path) is None
    assert not list(tmp_path.glob(".partial*"))
    monkeypatch.undo()
    make_result(make_scan()).save(tmp_path)
    saved(tmp_path)


def test_a_file_that_is_held_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "summary.csv"
    file.write_bytes(b"old")
    real, pauses = Path.replace, []

    def replace(self, target):
        if len(pauses) < held:
            raise PermissionError(13, "Access is denied", str(self), 5, str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    held = 3
    write_atomically(file, b"new", sleep=pauses.append)
    assert file.read_bytes() == b"new"
    assert len(pauses) == 3
    pauses.clear()
    held = 1000
    with pytest.raises(PermissionError, match="Access is denied") as caught:
        write_atomically(file, b"newer", sleep=pauses.append)
    assert caught.value.filename == str(file)
    assert sum(pauses) == pytest.approx(2.0)
    assert file.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]


def test_other_troubles_are_not_waited_for(tmp_path):
    with pytest.raises(OSError, match="a folder"):
        patiently(lambda: (_ for _ in ()).throw(OSError(21, "a folder")), tmp_path, sleep=pytest.fail)


def test_a_new_folder_appears_at_once_and_is_open_to_others(tmp_path, make_scan, make_result, monkeypatch):
    renamed = []
    real = Path.rename
    monkeypatch.setattr(
        Path,
        "rename",
        lambda self, to: (renamed.append(sorted(file.name for file in self.iterdir())), real(self, to))[1],
    )
    scan, workspace, folder = make_scan(), tmp_path / ".partial-work", tmp_path / "out" / "a.sxm"
    save_results(scan, [make_result(scan)], folder, workspace=workspace)
    assert renamed == [["atoms.csv", "atoms.xyz", "confidence.tif", "overlay.png", "result.json"]]
    assert not list(workspace.iterdir())
    assert (folder.stat().st_mode & 0o777) == (folder.parent.stat().st_mode & 0o777)
    saved(folder)
    (folder / "my notes.txt").write_text("kept", encoding="utf-8")
    save_results(scan, [make_result(scan, maps=())], folder, workspace=workspace)
    assert len(renamed) == 1
    assert not list(workspace.iterdir())
    saved(folder)
    assert {file.name for file in folder.iterdir()} == {
        "atoms.csv",
        "atoms.xyz",
        "overlay.png",
        "result.json",
        "my notes.txt",
    }


def test_result_json_comes_last(tmp_path, make_scan, make_result, monkeypatch):
    order = []
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append(Path(target).name), real(self, target))[1])
    make_result(make_scan()).save(tmp_path)
    assert order[-1] == "result.json"
    assert len(order) == 5


def test_mistakes_of_a_pipeline_are_refused(tmp_path, make_scan, make_result, make_defects):
    scan = make_scan()
    wrong = Map("confidence", np.zeros((3, 3), np.float32))
    twice = [make_result(scan), make_result(scan, task="denoise", maps=())]
    number = Map("confidence", np.zeros(scan.shape, np.int32))
    found = [make_result(scan, task=t, atoms=None, maps=(), defects=make_defects([])) for t in ("defects", "denoise")]
    faulty = [make_result(scan, maps=(layer,)) for layer in (wrong, number)]
    for results in ([], [make_result(scan)] * 2, twice, found, *([one] for one in faulty)):
        with pytest.raises(ValueError, match=r"got|shape|type"):
            save_results(scan, results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}', "null"])
def test_a_document_that_is_not_whole_is_none(tmp_path, content):
    (tmp_path / "result.json").write_text(content, encoding="utf-8")
    assert read_document(tmp_path) is None


def test_the_parameters_hash_ignores_order_only():
    assert parameters_sha256({"a": 1.0, "b": True}) == parameters_sha256({"b": True, "a": 1.0})
    assert parameters_sha256({"a": 1.0}) != parameters_sha256({"a": 1.5})


def test_unfinished_folders_of_others_are_safe_from_a_clock_that_is_wrong(tmp_path, monkeypatch):
    """The clock of a share, which the times in it are of, is hours behind that of this computer."""
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 86400)
    with partial_folder(tmp_path) as first, partial_folder(tmp_path) as second:
        assert first.is_dir()
        os.utime(first, (now_s - 7200,) * 2)
        with partial_folder(tmp_path):
            assert not first.exists()  # that one is old by any clock
            assert second.is_dir()
