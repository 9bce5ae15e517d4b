"""What a scan leaves is read back by other programs: tables, calibrations, maps and pages, as the next person opens them."""

import csv
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import tifffile
from gwyfile.objects import GwyContainer
from gwyfile.util import get_datafields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spm_runtime.readers import open_scan, read_scans
from spm_runtime.results import Map, Outcome, Report, read_document, save_results
from spm_runtime.results._maps import write_gwy, write_tiff

#: From a tenth of a picometre to a micrometre, in digits that no instrument writes.
PIXEL_NM = st.floats(1e-4, 1e3, allow_nan=False)
#: HTML elements without an end tag. Source: HTML Living Standard, section 13.1.2.
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
NAMES = ["a.sxm", "-5 V, 2 nA.sxm", "=1+1.sxm", "day 1/50 % #2;.sxm", "Prüfung/中文 & b.sxm", "it's here.gwy"]
if os.name != "nt":  # Windows has no such names
    NAMES += ["<b>why?</b>.sxm", 'say "so": now.tif', "back\\slash.sxm"]


@pytest.fixture
def results(tmp_path, make_scan, make_result, make_defects):
    """A folder of results with one scan of everything: three tasks, a missing row, an image that is not square."""
    image = np.array(make_scan().image)
    image[:2] = np.nan
    scan = make_scan(image=image, path=Path("a.sxm"), offset_nm=(3.0, -2.0), angle_deg=0.0)
    shift = Map("denoised", (scan.image * 2).astype(np.float32), "m")
    other = make_result(scan, task="denoise", atoms=None, maps=(shift,), quantities={})
    classes = np.where(scan.valid, np.arange(64) // 22, 0).astype(np.uint8)
    layers = (Map("class_map", classes, labels=("none", "vacancy", "-adatom")), Map("mask", classes > 0))
    defects = make_defects([(5, 6), (20.5, 30.25)], names=("vacancy", "-adatom"), confirmed=[1, 0])
    found = make_result(scan, task="defects", atoms=None, defects=defects, maps=layers, quantities={})
    save_results(scan, [found, make_result(scan), other], tmp_path / "a.sxm", gwy=True, source_sha256="ab" * 32)
    return scan, tmp_path / "a.sxm"


# ---------------------------------------------------------------------------------------------- TIFF


def imagej_pixel_nm(path):
    """Pixel size as ImageJ's own reader takes it: the description's unit, one over the resolution, height first."""
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej
        facts = dict(line.split("=", 1) for line in file.pages[0].description.splitlines() if "=" in line)
        assert "ImageJ" in facts
        assert facts["unit"] == "nm"
        tags = file.pages[0].tags
        assert tags["ResolutionUnit"].value == 1  # neither inch nor centimetre: the unit is the description's
        return tuple(tags[name].value[1] / tags[name].value[0] for name in ("YResolution", "XResolution"))


def rosettasciio_pixel_nm(path):
    (signal,) = pytest.importorskip("rsciio.tiff").file_reader(str(path))
    assert [axis["units"] for axis in signal["axes"]] == ["nm", "nm"]
    return tuple(axis["scale"] for axis in signal["axes"])


def our_pixel_nm(path):
    return open_scan(path).pixel_size_nm


@pytest.mark.parametrize("read", [imagej_pixel_nm, rosettasciio_pixel_nm, our_pixel_nm])
def test_any_pixel_size_survives_a_tiff(tmp_path, make_scan, read):
    image = np.zeros((8, 9), np.float32)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(y_nm=PIXEL_NM, x_nm=PIXEL_NM)
    def check(y_nm, x_nm):
        write_tiff(tmp_path / "a.tif", make_scan(image=image, pixel_size_nm=(y_nm, x_nm)), Map("a", image))
        assert read(tmp_path / "a.tif") == pytest.approx((y_nm, x_nm), rel=1e-6)

    check()


def test_every_map_of_a_result_is_read_alike_by_all(results):
    scan, folder = results
    listed = [name for task in read_document(folder)["tasks"].values() for name in task["files"] if ".tif" in name]
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.tif"))
    assert len(listed) == 4
    reader = pytest.importorskip("rsciio.tiff").file_reader
    for name in listed:
        plain = tifffile.imread(folder / name)
        assert plain.shape == scan.shape
        if plain.dtype == np.float32:
            assert np.isnan(plain[:2]).all()  # a missing row stays missing
        else:
            assert plain.dtype == np.uint8
            assert not plain[:2].any()
        (signal,) = reader(str(folder / name))
        np.testing.assert_array_equal(signal["data"], plain)
        # Blank rows at the top of an image are missing ones to a reader.
        np.testing.assert_array_equal(np.nan_to_num(open_scan(folder / name).image), np.nan_to_num(plain))
        assert imagej_pixel_nm(folder / name) == pytest.approx(scan.pixel_size_nm, rel=1e-6)
    (signal,) = reader(str(folder / "denoised.tif"))
    assert signal["metadata"]["Signal"]["quantity"] == "m"


# ---------------------------------------------------------------------------------------------- Gwyddion


def test_a_gwy_is_read_alike_by_gwyfile_and_by_our_reader(results):
    scan, folder = results
    theirs = get_datafields(GwyContainer.fromfile(str(folder / "a.sxm.gwy")))
    ours = {one.channel: one for one in read_scans(folder / "a.sxm.gwy")}
    assert list(theirs) == list(ours) == [scan.label, "class_map", "mask", "confidence", "denoised"]
    for name, field in theirs.items():
        one = ours[name]
        np.testing.assert_allclose(np.nan_to_num(one.image), field.data, rtol=1e-6)
        assert one.pixel_size_nm == pytest.approx(scan.pixel_size_nm, rel=1e-9)
        assert one.unit == field.si_unit_z.unitstr
        assert (field.yreal, field.xreal) == pytest.approx(tuple(1e-9 * size for size in scan.size_nm))
    there = np.isfinite(scan.image)
    np.testing.assert_allclose(theirs["denoised"].data[there], 2 * scan.image[there], rtol=1e-6)


def test_a_gwy_of_values_far_from_one_keeps_them(tmp_path, make_scan):
    current = make_scan(unit="pA", image=np.linspace(-3e-3, 5e3, 48 * 64).reshape(48, 64).astype(np.float32))
    write_gwy(tmp_path / "a.gwy", current, [])
    back = open_scan(tmp_path / "a.gwy")
    assert back.unit == "A"
    np.testing.assert_allclose(back.image, current.image.astype(float) * 1e-12, rtol=1e-6)


# ---------------------------------------------------------------------------------------------- tables


def as_spreadsheet(path):
    """Header and rows as a spreadsheet guesses them: separator and quotes from the content, one row of names."""
    text = path.read_text(encoding="utf-8-sig")
    dialect = csv.Sniffer().sniff(text, delimiters=",;\t| ")
    assert (dialect.delimiter, dialect.quotechar) == (",", '"')
    header, *rows = csv.reader(text.splitlines(keepends=True))
    assert all(len(row) == len(header) for row in rows)
    assert len(set(header)) == len(header)
    return header, rows


def test_atoms_open_in_a_spreadsheet(results):
    _, folder = results
    header, rows = as_spreadsheet(folder / "atoms.csv")
    assert header == ["y_px", "x_px", "y_nm", "x_nm", "score", "position_std_px", "width_px", "intensity", "sublattice"]
    assert len(rows) == read_document(folder)["tasks"]["atoms"]["counts"]["atoms"] == 2
    for row in rows:  # a decimal point, no thousands separator, no unit, nothing that reads as text
        assert all(re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]\d+)?", cell) for cell in row[:-1]), row
        assert row[-1] == ""
    content = (folder / "atoms.csv").read_bytes()
    assert content.isascii()
    assert content.endswith(b"\n")


def test_defects_open_in_a_spreadsheet(results):
    _, folder = results
    header, rows = as_spreadsheet(folder / "defects.csv")
    assert header == [
        "y_px", "x_px", "h_px", "w_px", "area_px", "class", "probability", "y_nm", "x_nm", "area_nm2", "score", "confirmed",
        "group",
    ]  # fmt: skip
    assert [(row[5], row[11]) for row in rows] == [("vacancy", "yes"), ("'-adatom", "no")]
    for row in rows:
        assert all(re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]\d+)?", cell) for cell in (*row[:5], *row[6:11])), row


def test_tables_are_numbers_to_pandas(results):
    pandas = pytest.importorskip("pandas")
    _, folder = results
    table = pandas.read_csv(folder / "atoms.csv")
    assert {kind.kind for kind in table.dtypes} == {"f"}
    np.testing.assert_allclose(table[["y_px", "x_px"]], [(8, 8), (16.25, 24.5)])
    assert table["sublattice"].isna().all()
    table = pandas.read_csv(folder / "defects.csv")
    assert [kind.kind for kind in table.dtypes] == [*"fffff", "O", *"fffff", "O", "f"]


@pytest.fixture
def report(tmp_path, make_scan, make_result):
    """The summary and the pages of scans with awkward names, one of them failed."""
    folder = tmp_path / "all"
    written = Report(folder)
    for name in NAMES:
        save_results(make_scan(), [make_result(make_scan())], folder / name, source_name=name, source_sha256="cd" * 32)
        document = read_document(folder / name)
        written.add([Outcome(name, name, "done", seconds=0.5, document=document)])
    reason = 'bad.sxm: "cut, off";\tline 1\nline 2'
    written.add([Outcome("bad <i>.sxm", "bad <i>.sxm", "failed", reason=reason, error="CorruptScanError")])
    written.write()
    return folder


def test_the_summary_opens_in_a_spreadsheet(report):
    header, rows = as_spreadsheet(report / "summary.csv")
    table = {row["scan"]: row for row in (dict(zip(header, cells, strict=True)) for cells in rows)}
    assert set(table) == {*NAMES, "bad <i>.sxm"}
    assert {table[name]["status"] for name in NAMES} == {"done"}
    for name in NAMES:
        assert [table[name][column] for column in ("atoms", "height_px", "width_px")] == ["2", "48", "64"]
        assert float(table[name]["spacing_px"]) == 8.0
    assert table["bad <i>.sxm"]["reason"] == 'bad.sxm: "cut, off"; line 1 line 2'
    assert (report / "summary.csv").read_text(encoding="utf-8").count("\n") == len(NAMES) + 2  # no cell breaks a line


# ---------------------------------------------------------------------------------------------- pages


class Page(HTMLParser):
    """Links of a page; fails where tags are not nested."""

    def __init__(self, path) -> None:
        super().__init__()
        self.links, self.open, self.text = [], [], ""
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<!DOCTYPE html>")
        assert '<meta charset="utf-8">' in text[:512]
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag not in {"script", "b>", "i"}  # nothing runs, and no name becomes a tag
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names)
        assert not [name for name in names if name.startswith("on")]
        self.links += [value for name, value in attributes if name in {"href", "src", "action", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_index_needs_no_server(report):
    pages, done, text = {report / "index.html"}, set(), ""
    while pages - done:
        path = (pages - done).pop()
        done.add(path)
        page = Page(path)
        text += page.text
        for link in page.links:
            parts = urlsplit(link)
            assert (parts.scheme, parts.netloc) == ("", ""), link
            assert not parts.path.startswith("/"), link
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
                assert target.exists(), link
                assert target.is_relative_to(report.resolve()), link
                if target.suffix == ".html":
                    pages.add(target)
    for name in [*NAMES, "bad <i>.sxm"]:
        assert name in text
    assert not re.search(r"@import|url\(", (report / "index.html").read_text(encoding="utf-8"))
