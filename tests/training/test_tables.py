"""Markdown tables and the files of a report."""

import json

from spm_training.tables import interval_cell, markdown_table, write_tables


def test_a_table_has_text_first_then_numbers():
    assert markdown_table(["", "F1", "n"], [["all", "0.5", "3"], ["nanonis", "nan / 0.10", "nan"]]) == (
        "| | F1 | n |\n|---|---:|---:|\n| all | 0.5 | 3 |\n| nanonis | – / 0.10 | – |\n"
    )
    assert markdown_table(["finder"], []) == "| finder |\n|---|\n"


def test_an_interval():
    assert interval_cell(0.8543, 0.7921, 0.9051) == "0.854 [0.79, 0.91]"


def test_both_files_are_written_into_a_new_folder(tmp_path):
    data, text = write_tables(tmp_path / "new" / "report-1.0", {"a": [1, None]}, "ä\n")
    assert (data.name, text.name) == ("report-1.0.json", "report-1.0.md")
    assert json.loads(data.read_text(encoding="utf-8")) == {"a": [1, None]}
    assert text.read_text(encoding="utf-8") == "ä\n"
