"""``index.html``: every scan with its picture, on one page that needs neither a server nor anything from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath
from urllib.parse import quote

from spm_runtime._version import __version__

__all__ = ["PAGE_LENGTH", "Front", "index_html", "page_name"]

#: Scans on one page: a browser shows so many pictures at once, and a new scan costs the writing of one page.
PAGE_LENGTH = 200

#: Column prefix and letter of the two axes, height first.
_AXES = (("height", "y"), ("width", "x"))

_STYLE = """
:root { color-scheme: light dark; --back: #f5f6f8; --card: #fff; --text: #1a1d21; --faint: #646c78; --line: #dfe3e8;
  --bad: #b3261e; --bad-back: #fdeceb; --warn: #8a5a00; --warn-back: #fff5df; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --back: #14161a; --card: #1d2025; --text: #e8eaed; --faint: #9aa3af;
  --line: #30353d; --bad: #ff8a80; --bad-back: #3a1d1d; --warn: #ffc65c; --warn-back: #33290f; --link: #7db8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1680px; padding: 28px 24px 60px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
h1 { margin: 0; font-size: 26px; } h2 { margin: 36px 0 12px; font-size: 18px; }
.counts { margin: 4px 0 0; color: var(--faint); } .counts b { color: var(--text); } .counts .bad { color: var(--bad); }
.pages { line-height: 2; } .pages a, .pages b { margin-right: 8px; }
.list { border: 1px solid var(--line); border-radius: 10px; background: var(--card); overflow: hidden; }
.list > div { padding: 10px 16px; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.list > div:first-child { border-top: 0; }
.failed { border-color: var(--bad); background: var(--bad-back); } .failed b { color: var(--bad); }
.list p { margin: 2px 0 0; } pre { overflow-x: auto; font-size: 12px; } summary { cursor: pointer; color: var(--faint); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 20px; }
article { display: flex; flex-direction: column; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); overflow: hidden; }
article > a { display: block; background: #14161a; }
img { display: block; width: 100%; height: 340px; object-fit: contain; }
.words { display: flex; flex: 1; flex-direction: column; gap: 6px; padding: 12px 16px 14px; }
h3 { margin: 0; font-size: 15px; overflow-wrap: anywhere; }
.words p { margin: 0; overflow-wrap: anywhere; } .found b { font-size: 20px; }
.classes { display: block; font-size: 13px; } .faint { color: var(--faint); font-size: 13px; }
.warn { padding: 6px 10px; border-radius: 6px; background: var(--warn-back); color: var(--warn); font-size: 13px; }
.links { margin-top: auto !important; padding-top: 4px; font-size: 13px; } .links a { margin-right: 14px; }
footer { margin-top: 40px; color: var(--faint); font-size: 13px; }
"""


@dataclass(frozen=True)
class Front:
    """What the first page shows besides scans that are done.

    Parameters
    ----------
    done, failed, skipped
        How many images there are, by what became of them.
    failures
        Rows of failed images, each with its traceback, empty where there is none; perhaps not all of them.
    omissions
        Rows of skipped images; perhaps not all of them.
    """

    done: int
    failed: int
    skipped: int
    failures: Sequence[tuple[Mapping[str, str], str]]
    omissions: Sequence[Mapping[str, str]]


def page_name(number: int) -> str:
    """The file of a page, counted from 1."""
    return "index.html" if number == 1 else f"index-{number}.html"


def index_html(done: Sequence[Mapping[str, str]], front: Front | None, *, number: int = 1, pages: int = 1) -> str:
    """One page.

    Parameters
    ----------
    done
        Rows of ``summary.csv`` that the page shows, in order.
    front
        What the first page shows besides; None for another one, so that it does not change with every new scan.
    number, pages
        Which page it is, counted from 1, and how many there are.

    Returns
    -------
    str
        HTML. Links are relative, so that the folder can be copied, and quoted, so that any file name works.
    """
    links = [_page_links(number, pages)] if pages > 1 else []
    title, body, end = f"Scans, page {number}", ["<h1>Scans</h1>", *links], [*links]
    if front is not None:
        title = f"Scans: {front.done} done, {front.failed} failed"
        counts = _counts(front.done, front.failed, front.skipped)
        body.insert(1, f'<p class="counts">{counts} · <a href="summary.csv">summary.csv</a></p>')
        body += _list("Failed", "list failed", [_failure(*row) for row in front.failures], front.failed)
        end += _list("Skipped", "list", [_failure(row, "") for row in front.omissions], front.skipped)
    if done:
        body += ["<h2>Done</h2>", '<div class="grid">', *map(_card, done), "</div>"]
    body += [*end, f"<footer>Adatom {escape(__version__)}</footer>"]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _list(title: str, kind: str, items: Sequence[str], count: int) -> list[str]:
    """A list with its title, and how many of `count` it leaves out; nothing when it is empty."""
    if not items:
        return []
    more = f'<div>and {count - len(items)} more, in <a href="summary.csv">summary.csv</a></div>'
    return [f"<h2>{title}</h2>", f'<div class="{kind}">', *items, *([more] if count > len(items) else []), "</div>"]


def _page_links(number: int, pages: int) -> str:
    links = (
        f"<b>{other}</b>" if other == number else f'<a href="{page_name(other)}">{other}</a>'
        for other in range(1, pages + 1)
    )
    return f'<p class="pages">Page {" ".join(links)}</p>'


def _counts(done: int, failed: int, skipped: int) -> str:
    words = [f"<b>{done}</b> done", f'<b class="bad">{failed}</b> failed' if failed else "none failed"]
    if skipped:
        words.append(f"<b>{skipped}</b> skipped")
    return " · ".join(words)


def _title(row: Mapping[str, str]) -> str:
    frame = f", frame {row['frame']}" if row["frame"] else ""
    return escape(row["scan"] + frame)


def _failure(row: Mapping[str, str], trace: str) -> str:
    details = f"<details><summary>Traceback</summary><pre>{escape(trace)}</pre></details>" if trace else ""
    return f"<div><b>{_title(row)}</b><p>{escape(row['reason'])}</p>{details}</div>"


def _card(row: Mapping[str, str]) -> str:
    def link(file: str) -> str:
        return escape(quote((PurePosixPath(row["folder"]) / file).as_posix()))

    counts = [f"<b>{int(row[kind]):,}</b> {kind}" for kind in ("defects", "atoms") if row[kind]]
    if row["certain_share"]:
        counts.append(f"<b>{100 * float(row['certain_share']):.0f} %</b> certain")
    found = " · ".join(counts) or escape(row["tasks"])
    if row["tip_radius_nm"]:
        found += f" · tip radius {float(row['tip_radius_nm']):.3g} nm"
    if row["rms_change_nm"]:
        found += f" · changed by {float(row['rms_change_nm']):.3g} nm rms"
    for name, words in (("noise_before", "white noise"), ("taken_away_rms", "taken away")):
        if row[name]:
            found += f" · {words} {100 * float(row[name]):.2f} % of the relief"
    if row["spacing_nm"] or row["spacing_px"]:
        spacing, unit = (row["spacing_nm"], "nm") if row["spacing_nm"] else (row["spacing_px"], "px")
        found += f" · spacing {float(spacing):.3g} {unit}"
    if row["defect_classes"]:
        found += f'<span class="classes">{escape(row["defect_classes"].replace("; ", ", "))}</span>'
    facts = [row["channel"], f"{row['width_px']} × {row['height_px']} px"]
    if row["pixel_size_y_nm"]:
        height, width = (float(row[f"{axis}_px"]) * float(row[f"pixel_size_{along}_nm"]) for axis, along in _AXES)
        facts.append(f"{width:.3g} × {height:.3g} nm")
    facts += [row["model"], row["provider"].removesuffix("ExecutionProvider"), f"{float(row['seconds']):.1f} s"]
    warnings = "".join(f'<p class="warn">{escape(text)}</p>' for text in row["warnings"].split(" | ") if text)
    files = [("picture", "overlay.png"), ("result.json", "result.json")]
    files[1:1] = [(f"{kind}.csv", f"{kind}.csv") for kind in ("defects", "atoms") if row[kind]]
    links = "".join(f'<a href="{link(file)}">{escape(text)}</a>' for text, file in [*files, ("all files", "")])
    return (
        f'<article><a href="{link("overlay.png")}"><img loading="lazy" src="{link("overlay.png")}" alt="{_title(row)}"></a>'
        f'<div class="words"><h3>{_title(row)}</h3><p class="found">{found}</p>'
        f'<p class="faint">{escape(" · ".join(fact for fact in facts if fact))}</p>{warnings}'
        f'<p class="links">{links}</p></div></article>'
    )
