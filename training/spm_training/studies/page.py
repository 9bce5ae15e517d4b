"""A report as one HTML file: pictures inside, no server, no script."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from spm_runtime.errors import ParameterError
from spm_training.files import write_atomically

__all__ = ["Cell", "Page", "check_new", "shown"]

Cell = str | int | float | None

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }
th { border-bottom: 2px solid #888; }
th:first-child, td:first-child { text-align: left; }
tr.chosen td { background: #e8f4e8; font-weight: 600; }
figure { margin: 1rem 0; } img { max-width: 100%; } figcaption, caption { color: #555; text-align: left; }
.recommendation { border-left: 4px solid #2a7; background: #f2faf5; padding: 0.6rem 1rem; }
"""


class Page:
    """A report under construction, written from top to bottom.

    Parameters
    ----------
    title
        Title of the report.
    summary
        What was done, on what, with how much computing.
    """

    def __init__(self, title: str, summary: str) -> None:
        self.title = title
        self.summary = summary
        self.recommendation = ""
        self._parts: list[str] = []

    def section(self, title: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(title)}</h2>")

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str = "", chosen: Iterable[int] = ()
    ) -> None:
        """Add a table; the rows whose numbers are in `chosen` are marked."""
        marked = set(chosen)
        lines = ["<table>", f"<caption>{html.escape(caption)}</caption>" if caption else ""]
        lines.append("<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>")
        for number, row in enumerate(rows):
            cells = "".join(f"<td>{html.escape(shown(cell))}</td>" for cell in row)
            lines.append(f'<tr class="chosen">{cells}</tr>' if number in marked else f"<tr>{cells}</tr>")
        self._parts.append("\n".join([line for line in lines if line] + ["</table>"]))

    def figure(self, figure: Figure, caption: str) -> None:
        """Add a picture, as PNG inside the page."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
        code = base64.b64encode(buffer.getvalue()).decode("ascii")
        words = html.escape(caption)
        self._parts.append(
            f'<figure><img alt="{words}" src="data:image/png;base64,{code}"><figcaption>{words}</figcaption></figure>'
        )

    def recommend(self, text: str) -> None:
        """Say what follows; it stands at the top of the page."""
        self.recommendation = text

    def html(self) -> str:
        """The whole page."""
        title = html.escape(self.title)
        head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        advice = f'<p class="recommendation"><b>Recommendation.</b> {html.escape(self.recommendation)}</p>'
        top = [f"<h1>{title}</h1>", f"<p>{html.escape(self.summary)}</p>", advice]
        body = "\n".join(top + self._parts)
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'

    def write(self, folder: Path, name: str, numbers: Mapping[str, object]) -> Path:
        """Write ``NAME.html``, and ``NAME.json`` with the numbers; give the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title, "recommendation": self.recommendation, **numbers}
        write_atomically(folder / f"{name}.json", (json.dumps(_plain(content), indent=2) + "\n").encode())
        file = folder / f"{name}.html"
        write_atomically(file, self.html().encode())
        return file


def check_new(folder: Path, name: str) -> None:
    """Refuse to write over a report.

    Raises
    ------
    ParameterError
        If there is one of that name.
    """
    if (folder / f"{name}.html").exists():
        raise ParameterError(
            f"--out {folder}: holds {name}.html already; expected a folder without that report. Choose another folder."
        )


def shown(cell: Cell) -> str:
    """A number as a person reads it: three digits, thousands apart, a dash for what is not known."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or (abs(cell) >= 1000 and cell < 1e9):
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def _plain(value: object) -> object:
    """What JSON holds: numbers that are none become null, which every reader understands."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
