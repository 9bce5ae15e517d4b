"""Run the benchmarks in one process and write ratios to ``bench/results.json``.

Every benchmark belongs to a group; the test whose name ends in ``reference`` is what the others of its group are divided by. A
ratio holds from machine to machine, a time does not, so only ratios are printed.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent


def ratios(report: dict) -> list[dict]:  # type: ignore[type-arg]
    """Medians of one pytest-benchmark report, divided by the reference of their group."""
    groups: dict[str, list[dict]] = {}  # type: ignore[type-arg]
    for entry in report["benchmarks"]:
        groups.setdefault(entry["group"] or "ungrouped", []).append(entry)
    rows = []
    for group, entries in sorted(groups.items()):
        base = next((e for e in entries if e["name"].partition("[")[0].endswith("reference")), None)
        for entry in entries:
            if base is None or entry is base:
                continue
            low, middle, high = (entry["stats"][key] for key in ("q1", "median", "q3"))
            rows.append(
                {
                    "group": group,
                    "name": entry["name"],
                    "reference": base["name"],
                    "speed_ratio": base["stats"]["median"] / middle,
                    "spread": (high - low) / middle,
                    "rounds": entry["stats"]["rounds"],
                }
            )
    return rows


def figures(report: dict) -> list[dict]:  # type: ignore[type-arg]
    """What benchmarks measured besides the times of their rounds: their own ratios, in the same run."""
    noted = [entry for entry in report["benchmarks"] if entry["extra_info"]]
    return [{"group": entry["group"], "name": entry["name"], **entry["extra_info"]} for entry in noted]


def main() -> int:
    """Run, print, write; returns pytest's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [
            sys.executable, "-m", "pytest", str(HERE), "-o", "python_files=test_*.py", "--benchmark-only",
            f"--benchmark-json={raw}", "--benchmark-quiet", "-q", "-p", "no:cacheprovider",
        ]  # fmt: skip
        status = subprocess.run([*command, *sys.argv[1:]], check=False).returncode
        if not raw.is_file():
            return status or 1
        report = json.loads(raw.read_text(encoding="utf-8"))
    rows, noted = ratios(report), figures(report)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "scikit-image")},
    }
    (HERE / "results.json").write_text(
        json.dumps({"machine": machine, "ratios": rows, "figures": noted}, indent=1), encoding="utf-8"
    )
    for row in rows:
        print(f"{row['group']:<28}{row['name']:<44}{row['speed_ratio']:8.1f} × {row['reference']}")
    for entry in noted:
        for name, value in entry.items():
            if name not in {"group", "name"}:
                print(f"{entry['name']:<44}{name:<28}{value:10.3g}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
