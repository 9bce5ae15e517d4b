import csv
import json

import pytest

from spm_runtime.engine.batch import run_batch
from spm_runtime.engine.settings import Settings


@pytest.mark.slow
def test_no_real_file_surprises_the_engine(real_data, tmp_path, fake, caplog, make_inline):
    """Every file of real instruments ends as done, failed with a reason, or skipped with a reason; none in a traceback."""
    folders = [folder for name in ("stm", "haadf", "afm") if (folder := real_data / name).is_dir()]
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}
    out = tmp_path / "out"
    failed = run_batch(folders, out, Settings(), analyse=fake, make_pool=make_inline)
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["status"] == "failed" for row in rows) == failed
    assert "Traceback" not in caplog.text
    for row in rows:
        assert row["status"] == "done" or row["reason"]
        if row["status"] == "done":
            document = json.loads((out / row["folder"] / "result.json").read_text(encoding="utf-8"))
            blocks = [document, *document["tasks"].values()]
            assert all((out / row["folder"] / name).is_file() for block in blocks for name in block["files"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
