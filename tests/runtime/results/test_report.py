import csv
import dataclasses
import re
import sqlite3
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from spm_runtime.results import read_document, save_results
from spm_runtime.results._outcome import Outcome
from spm_runtime.results._report import ADDED_COLUMNS, SUMMARY_COLUMNS, Report, found_in

NAMES = ["a.sxm", "day 1/100 % #3.sxm", "Prüfung/中文 & it's.sxm", "javascript&colon;alert(1).sxm", "a;b,c.gwy"]
if sys.platform != "win32":  # where these characters have a meaning of their own
    NAMES += ["where?.sxm", "<b>bold.sxm", "javascript:alert(1).sxm", 'quote".tif']


class Page(HTMLParser):
    def __init__(self, text) -> None:
        super().__init__()
        self.links, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in {"href", "src"}]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def finish(make_scan, make_result):
    def save(folder, name, *, frame=None, **facts):
        scan = make_scan(frame=frame, warnings=facts.pop("scan_warnings", ()))
        output = name if frame is None else f"{name}/frame-{frame:03d}"
        save_results(scan, [make_result(scan, **facts)], folder / output, source_name=name, source_sha256="cd" * 32)
        return Outcome(name, output, "done", frame=frame, seconds=1.5, document=read_document(folder / output))

    return save


def rows_of(folder):
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def failure(name, reason="damaged", **facts):
    return Outcome(name, name, "failed", reason=reason, error="CorruptScanError", **facts)


def test_one_row_per_scan_failed_ones_included(tmp_path, finish):
    report = Report(tmp_path)
    report.add([finish(tmp_path, "b.sxm", scan_warnings=("w1",), warnings=("w2",))])
    report.add([failure("a.sxm", "a.sxm: cut,\noff")])
    report.add([Outcome("c.gwy", "c.gwy", "skipped", reason="no task for AFM images yet")])
    report.write()
    first, second, third = rows_of(tmp_path)
    assert tuple(first) == SUMMARY_COLUMNS
    assert (first["scan"], first["status"], first["reason"], first["atoms"]) == (
        "a.sxm",
        "failed",
        "a.sxm: cut, off",
        "",
    )
    assert (second["scan"], second["status"], second["atoms"], second["spacing_px"]) == ("b.sxm", "done", "2", "8")
    assert (second["model"], second["provider"], second["seconds"]) == ("atoms@1.2", "CPUExecutionProvider", "1.500")
    assert (second["warnings"], second["pixel_size_y_nm"], second["sha256"]) == ("w1 | w2", "0.02", "cd" * 32)
    assert third["status"] == "skipped"


@pytest.fixture
def finish_defects(finish, make_scan, make_defects):
    def save(folder, name, kind, names=("vacancy", "adatom", "cluster")):
        defects = make_defects([(5, 6)] * len(kind), kind=kind, names=names)
        return finish(folder, name, task="defects", atoms=None, defects=defects, maps=(), quantities={})

    return save


def test_defects_are_counted_by_class(tmp_path, finish, finish_defects):
    report = Report(tmp_path)
    report.add([finish_defects(tmp_path, "a.sxm", [2, 0, 2])])
    report.add([finish_defects(tmp_path, "b.sxm", [])])
    report.add([finish(tmp_path, "c.sxm")])
    report.write()
    assert [(row["defects"], row["defect_classes"], row["atoms"]) for row in rows_of(tmp_path)] == [
        ("3", "1 vacancy; 2 cluster", ""),
        ("0", "", ""),
        ("", "", "2"),
    ]
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "3 defects1 vacancy, 2 cluster" in page.text
    assert "0 defects" in page.text
    assert "2 atoms" in page.text
    assert {link for link in page.links if link.endswith("s.csv")} == {
        "a.sxm/defects.csv", "b.sxm/defects.csv", "c.sxm/atoms.csv",
    }  # fmt: skip


def test_defects_and_atoms_of_one_scan_stand_in_one_row(tmp_path, make_scan, make_result, make_defects):
    scan = make_scan()
    found = make_result(scan, task="defects", atoms=None, defects=make_defects([(5, 6)]), maps=(), quantities={})
    save_results(scan, [found, make_result(scan)], tmp_path / "a.sxm")
    report = Report(tmp_path)
    report.add([Outcome("a.sxm", "a.sxm", "done", document=read_document(tmp_path / "a.sxm"))])
    report.write()
    (row,) = rows_of(tmp_path)
    assert (row["defects"], row["defect_classes"], row["atoms"], row["tasks"]) == (
        "1",
        "1 vacancy",
        "2",
        "defects atoms",
    )
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "1 defects · 2 atoms · spacing 8 px1 vacancy" in page.text
    assert {"a.sxm/defects.csv", "a.sxm/atoms.csv"} < set(page.links)


def test_everything_that_was_found_is_counted(tmp_path, finish, finish_defects):
    database = sqlite3.connect(tmp_path / "rows.sqlite3", isolation_level=None)
    assert found_in(database) == {"defects": 0, "atoms": 0}
    report = Report(tmp_path, database)
    assert found_in(database) == {"defects": 0, "atoms": 0}
    report.add([finish_defects(tmp_path, "a.sxm", [2, 0, 2])])
    report.add([finish_defects(tmp_path, "b.sxm", [0])])
    report.add([finish(tmp_path, "c.sxm")])
    report.add([failure("d.sxm")])
    assert found_in(database) == {"defects": 4, "atoms": 2}
    report.add([finish_defects(tmp_path, "a.sxm", [1])])  # again: in place of what it was
    assert found_in(database) == {"defects": 2, "atoms": 2}
    database.close()


def test_names_of_classes_are_text_only(tmp_path, finish_defects):
    names = ("<script>alert(1)</script>", "=1+1\n,;", "中文")
    report = Report(tmp_path)
    report.add([finish_defects(tmp_path, "a.sxm", [0, 1, 2], names)])
    report.write()
    (row,) = rows_of(tmp_path)
    assert row["defect_classes"] == "1 <script>alert(1)</script>; 1 =1+1 ,;; 1 中文"  # a count first: no formula
    assert "script" not in Page((tmp_path / "index.html").read_text(encoding="utf-8")).tags
    assert [one["defects"] for one in rows_of(tmp_path)] == ["3"]


def test_the_table_and_the_rows_of_an_earlier_version_are_continued(tmp_path, finish, finish_defects):
    database = sqlite3.connect(tmp_path / "rows.sqlite3", isolation_level=None)
    report = Report(tmp_path, database)
    report.add([finish(tmp_path, "a.sxm"), failure("b.sxm")])
    report.write()
    earlier = [column for column in SUMMARY_COLUMNS if column not in ADDED_COLUMNS]
    rows = rows_of(tmp_path)
    with (tmp_path / "summary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, earlier, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    database.execute("UPDATE images SET cells = json_remove(cells, '$[4]', '$[4]')")
    report = Report(tmp_path, database)
    report.add([finish_defects(tmp_path, "c.sxm", [0])])
    assert report.write() == ""
    assert [(row["scan"], row["status"], row["defects"], row["atoms"]) for row in rows_of(tmp_path)] == [
        ("a.sxm", "done", "", "2"),
        ("b.sxm", "failed", "", ""),
        ("c.sxm", "done", "1", ""),
    ]
    assert not list(tmp_path.glob("*.bak*"))
    database.close()


def test_a_spacing_that_was_not_measured_is_nowhere(tmp_path, finish):
    report = Report(tmp_path)
    report.add([finish(tmp_path, "a.sxm", quantities={"predicted_spacing_px": 8.0})])
    report.write()
    (row,) = rows_of(tmp_path)
    assert (row["atoms"], row["spacing_nm"], row["spacing_px"]) == ("2", "", "")
    assert "spacing" not in Page((tmp_path / "index.html").read_text(encoding="utf-8")).text.partition("Done")[2]


def test_links_work_and_text_is_escaped_for_any_name(tmp_path, finish):
    report = Report(tmp_path)
    for name in NAMES:
        report.add([finish(tmp_path, name)])
    report.add([failure("<script>alert(1)</script>", traceback="</pre><script>")])
    report.write()
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    for link in page.links:
        assert not re.match(r"[a-zA-Z]+:|/", link), link
        assert (tmp_path / unquote(link)).exists(), link
    for name in NAMES:
        assert name in page.text
    assert "script" not in page.tags
    assert page.tags.count("img") == len(NAMES)
    assert text.index("alert(1)") < text.index("<article")  # failures first


def test_frames_of_a_stack_have_a_row_each(tmp_path, finish):
    report = Report(tmp_path)
    report.add([finish(tmp_path, "s.ser", frame=frame) for frame in (0, 1, 10, 2)])
    report.write()
    assert [row["frame"] for row in rows_of(tmp_path)] == ["0", "1", "2", "10"]
    report.add([failure("s.ser")])
    report.write()
    assert [row["status"] for row in rows_of(tmp_path)] == ["failed"]


def test_scans_of_earlier_runs_stay_while_their_results_do(tmp_path, finish):
    first = Report(tmp_path)
    first.add([finish(tmp_path, "kept.sxm")])
    first.add([finish(tmp_path, "deleted.sxm")])
    first.add([failure("failed.sxm")])
    first.write()
    (tmp_path / "deleted.sxm" / "result.json").unlink()
    second = Report(tmp_path)
    second.add([finish(tmp_path, "new.sxm")])
    second.write()
    assert [row["scan"] for row in rows_of(tmp_path)] == ["failed.sxm", "kept.sxm", "new.sxm"]


def test_a_result_that_was_there_keeps_its_row(tmp_path, finish):
    done = finish(tmp_path, "a.sxm")
    report = Report(tmp_path)
    report.add([done])
    report.write()
    again = Report(tmp_path)
    again.add([Outcome("a.sxm", "a.sxm", "done", document=done.document, reused=True)])
    again.write()
    assert rows_of(tmp_path)[0]["seconds"] == "1.500"


@pytest.mark.parametrize(
    "content", [b"", b"a;b\n1;2\n", b"\xff\xfe\x00", (",".join(SUMMARY_COLUMNS) + "\nx\n").encode()]
)
def test_a_table_of_another_make_is_not_continued_but_kept(tmp_path, finish, content):
    (tmp_path / "summary.csv.bak-1").write_bytes(b"kept")
    (tmp_path / "summary.csv").write_bytes(content)
    report = Report(tmp_path)
    for name in ("a.sxm", "b.sxm"):
        report.add([finish(tmp_path, name)])
        note = report.write()
        assert ("summary.csv.bak-2" in note) == (name == "a.sxm" and content != b"")  # it is said once
    assert [row["scan"] for row in rows_of(tmp_path)] == ["a.sxm", "b.sxm"]
    assert (tmp_path / "summary.csv.bak-1").read_bytes() == b"kept"
    backups = [path.read_bytes() for path in tmp_path.glob("summary.csv.bak-*") if path.name != "summary.csv.bak-1"]
    assert backups == ([content] if content else [])


def test_a_mark_before_the_text_is_no_other_make(tmp_path, finish):
    first = Report(tmp_path)
    first.add([finish(tmp_path, "a.sxm")])
    assert first.write() == ""
    table = tmp_path / "summary.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet saves it
    second = Report(tmp_path)
    second.add([failure("b.sxm")])
    assert second.write() == ""
    assert [row["scan"] for row in rows_of(tmp_path)] == ["a.sxm", "b.sxm"]
    assert not list(tmp_path.glob("*.bak*"))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("atoms", "1,234"), ("atoms", "nan"), ("defects", "many"), ("height_px", ""), ("width_px", "4.5"), ("seconds", "soon"),
        ("seconds", ""), ("spacing_px", "0,2"), ("pixel_size_x_nm", ""), ("pixel_size_y_nm", "inf"), ("status", "ok"),
        ("frame", "first"),
    ],
)  # fmt: skip
def test_a_cell_edited_by_hand_costs_its_row_and_nothing_else(tmp_path, finish, column, cell):
    first = Report(tmp_path)
    first.add([finish(tmp_path, "a.sxm")])
    first.add([finish(tmp_path, "b.sxm")])
    first.write()
    rows = rows_of(tmp_path)
    rows[0][column] = cell
    with (tmp_path / "summary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, SUMMARY_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    second = Report(tmp_path)
    second.add([failure("c.sxm")])
    assert "bak-1" in second.write()
    assert [row["scan"] for row in rows_of(tmp_path)] == ["b.sxm", "c.sxm"]
    assert cell in (tmp_path / "summary.csv.bak-1").read_text(encoding="utf-8")


def test_nothing_new_is_not_written(tmp_path, finish):
    report = Report(tmp_path)
    report.add([finish(tmp_path, "a.sxm")])
    report.write(at_most_every_s=1e9)
    assert not (tmp_path / "summary.csv").exists()
    report.write()
    (tmp_path / "summary.csv").unlink()
    report.write()
    assert not (tmp_path / "summary.csv").exists()


def test_rows_are_kept_in_the_database_that_is_given(tmp_path, finish):
    database = sqlite3.connect(tmp_path / "rows.sqlite3", isolation_level=None)
    report = Report(tmp_path, database)
    report.add([finish(tmp_path, "b.sxm")])
    report.add([failure("a.sxm", traceback="line 1\nline 2")])
    report.close()  # before it was ever written
    report = Report(tmp_path, database)
    report.write()
    assert [row["scan"] for row in rows_of(tmp_path)] == ["a.sxm", "b.sxm"]
    assert "line 1\nline 2" in (tmp_path / "index.html").read_text(encoding="utf-8")
    database.close()


def test_thousands_of_scans_are_spread_over_pages_and_unchanged_ones_are_left_alone(tmp_path, finish):
    done = finish(tmp_path, "0000.sxm")
    report = Report(tmp_path)
    for number in range(480):
        report.add([dataclasses.replace(done, name=f"{number:04d}.sxm")])
    report.add([failure("broken.sxm")])
    report.write()
    pages = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("index*.html")}
    assert sorted(pages) == ["index-2.html", "index-3.html", "index.html"]
    assert [pages[name].count("<article>") for name in ("index.html", "index-2.html", "index-3.html")] == [200, 200, 80]
    for name, page in pages.items():
        assert ("broken.sxm" in page) == (name == "index.html")
        for link in {"index.html", "index-2.html", "index-3.html"} - {name}:
            assert link in Page(page).links
        assert ("<b>480</b> done" in page) == (name == "index.html")
    assert len(rows_of(tmp_path)) == 481
    before = {name: (tmp_path / name).stat().st_ino for name in pages}
    report.add([dataclasses.replace(done, name="0250.sxm", seconds=99.0)])
    report.write()
    changed = {name for name in pages if (tmp_path / name).stat().st_ino != before[name]}
    assert changed == {"index-2.html"}
    (tmp_path / "index-4.html").write_text("left over", encoding="utf-8")
    report.add([failure("again.sxm")])
    report.write()
    assert not (tmp_path / "index-4.html").exists()


def test_a_report_that_takes_long_to_write_is_written_less_often(tmp_path, monkeypatch):
    from spm_runtime.results import _report

    now_s = [0.0]
    monkeypatch.setattr(_report.time, "monotonic", lambda: now_s[0])
    written = []
    real = Report._write_pages
    monkeypatch.setattr(
        Report, "_write_pages", lambda self: (written.append(now_s[0]), real(self), now_s.__setitem__(0, now_s[0] + 2))
    )
    report = Report(tmp_path)
    for second in range(200):
        now_s[0] = max(now_s[0], float(second))
        report.add([failure(f"{second}.sxm")])
        report.write(at_most_every_s=10.0)
    assert len(written) == 4  # after 10 s, then every 30 × 2 s
    report.write()
    assert len(written) == 5


def test_undecodable_names_do_not_stop_the_report(tmp_path):
    report = Report(tmp_path)
    report.add([failure("caf\udce9.sxm", "caf\udce9.sxm: damaged")])
    report.write()
    assert rows_of(tmp_path)[0]["scan"] == "caf\\udce9.sxm"
    (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_restored_surface_stands_in_the_summary_and_on_its_card(tmp_path, make_scan, make_restored):
    scan = make_scan()
    save_results(scan, [make_restored(scan)], tmp_path / "a.gwy", source_name="a.gwy", source_sha256="cd" * 32)
    report = Report(tmp_path)
    report.add([Outcome("a.gwy", "a.gwy", "done", seconds=1.5, document=read_document(tmp_path / "a.gwy"))])
    report.write()
    (row,) = rows_of(tmp_path)
    assert (row["tasks"], row["atoms"], row["defects"]) == ("restore", "", "")
    assert (row["certain_share"], row["rms_change_nm"], row["tip_radius_nm"]) == ("0.5", "0.25", "12.5")
    text = Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert "50 % certain" in text
    assert "tip radius 12.5 nm" in text
    again = Report(tmp_path)  # its rows are read again
    again.add([failure("b.gwy")])
    again.write()
    assert rows_of(tmp_path)[0] == row


def test_a_denoised_image_stands_in_the_summary_and_on_its_card(tmp_path, make_scan, make_denoised):
    scan = make_scan()
    save_results(scan, [make_denoised(scan)], tmp_path / "a.sxm", source_name="a.sxm", source_sha256="cd" * 32)
    report = Report(tmp_path)
    report.add([Outcome("a.sxm", "a.sxm", "done", seconds=1.5, document=read_document(tmp_path / "a.sxm"))])
    report.write()
    (row,) = rows_of(tmp_path)
    assert (row["tasks"], row["noise_before"], row["taken_away_rms"]) == ("denoise", "0.125", "0.25")
    assert (
        "white noise 12.50 % of the relief · taken away 25.00 %"
        in Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    )
