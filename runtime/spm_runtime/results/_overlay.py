"""``overlay.png``: the levelled scan with everything that was found marked in it, and beside it what it was made into."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spm_runtime.levelling import level_for_display
from spm_runtime.results._marks import (
    STEP_COLOUR,
    Entry,
    class_colour,
    draw_boxes,
    draw_legend,
    draw_steps,
    legend_rows,
)
from spm_runtime.results._panels import Panels, panels_of, picture_of, side_by_side, suited
from spm_runtime.results._result import Atoms, Result
from spm_runtime.scan import Scan

__all__ = ["draw_overlay"]

#: A small scan is magnified by whole pixels until it is this wide, a large one reduced until its long side fits.
MIN_WIDTH_PX, MAX_SIDE_PX = 1000, 4096
#: The same for each of several panels.
MIN_PANEL_PX, MAX_PANEL_PX = 500, 1360

#: Red for atoms as in the thesis' program (ATOM, section 4.6); further sublattices in colours that differ in lightness.
ATOM_COLOURS = ((255, 59, 48), (64, 200, 255), (255, 214, 10), (90, 230, 110))
FOOTER, TEXT, FAINT, AMBER = (20, 22, 26), (240, 242, 245), (160, 168, 180), (255, 190, 70)

#: Samples per pixel and axis when a mark is drawn, and steps per pixel at which it is placed.
SMOOTHING, PLACES = 8, 4

#: Height of the words, and width of a picture that they suit; in a wider one everything that is drawn grows with it.
FONT_PX, SUITED_PX = 20, 1200

#: Letters of the name of a class in the legend.
LONGEST_NAME = 30

#: Begin of the names of the probabilities of the kinds of tips.
FAMILY = "family_"

#: The map of a result that is drawn as lines.
STEPS = "steps"


def draw_overlay(scan: Scan, results: Sequence[Result], title: str) -> Image.Image:
    """The picture that a person looks at first.

    The scan in grey, levelled for the eye; a ring with a centre dot on every atom, sized by the spacing, or a mere dot where
    there are defects too; a box around every defect in the colour of its class; steps as thin lines; missing parts hatched in
    blue; a scale bar when the scan is calibrated; below it the classes with their colours and numbers, the title, what was
    found and the first warning. Of a restored surface three panels: the scan, with all marks, and the surface on one scale of
    heights, then the surface with what is not known in colour, and the tip in a corner. Of a denoised image three panels too:
    before, after, and what was taken away. Where there are both, the panels are those of the first result.

    Parameters
    ----------
    scan
        The scan.
    results
        What was found on it.
    title
        Name of the scan for people.

    Returns
    -------
    Image.Image
        RGB, at least `MIN_WIDTH_PX` wide unless the scan is very tall.
    """
    panels = next((found for result in results if (found := panels_of(scan, result)) is not None), None)
    zoom = (
        _zoom(scan.shape, MIN_WIDTH_PX, MAX_SIDE_PX)
        if panels is None
        else _zoom(scan.shape, MIN_PANEL_PX, MAX_PANEL_PX)
    )
    picture = picture_of(level_for_display(scan.image) if panels is None else panels.greys[0], scan.valid, zoom)
    count = 1 if panels is None else len(panels.names)
    unit = max(1, round(count * picture.shape[1] / SUITED_PX))
    steps = [layer.data for result in results for layer in result.maps if layer.name == STEPS]
    for mask in steps:
        draw_steps(picture, np.asarray(mask) > 0, zoom, unit)
    has_defects = any(result.defects is not None for result in results)
    for result in results:
        if result.atoms is not None:
            _mark_atoms(picture, result.atoms, _spacing_px(scan, result), zoom, dots_only=has_defects)
    for result in results:
        if result.defects is not None:
            draw_boxes(picture, result.defects, zoom, unit)
    image = Image.fromarray(picture)
    if scan.pixel_size_nm is not None:
        _draw_scale_bar(image, scan.pixel_size_nm[1] / zoom, unit)
    legend = _legend(results)
    if panels is not None:
        image = _with_panels(image, panels, scan, zoom, unit)
        legend += [Entry(entry.look, entry.colour, _latin(entry.text)) for entry in panels.legend]
    return _with_footer(image, title, legend, _summary(results), _warning(scan, results), unit)


def _zoom(shape: tuple[int, int], min_width: int, max_side: int) -> float:
    """Picture pixels per scan pixel: a whole number, or one over a whole number."""
    height, width = shape
    if max(height, width) > max_side:
        return 1.0 / math.ceil(max(height, width) / max_side)
    return float(max(1, min(math.ceil(min_width / width), max_side // max(height, width))))


def _with_panels(first: Image.Image, panels: Panels, scan: Scan, zoom: float, unit: int) -> Image.Image:
    """The other panels beside the scan, each with its name."""
    gap = 8 * unit
    image = Image.fromarray(side_by_side(np.asarray(first), panels, scan.valid, zoom, gap))
    pen = ImageDraw.Draw(image)
    for number, name in enumerate(panels.names):
        place = (number * (first.width + gap) + 16 * unit, 16 * unit)
        words = _shortened(pen, _latin(name), _font(unit), first.width - 32 * unit)
        pen.text(
            place,
            words,
            font=_font(unit),
            fill=(255, 255, 255),
            anchor="lt",
            stroke_width=3 * unit,
            stroke_fill=(0, 0, 0),
        )
    return image


def _spacing_px(scan: Scan, result: Result) -> float:
    """The spacing that sizes the marks: measured, else predicted, else that of as many atoms spread over the scan."""
    for name in ("spacing_px", "predicted_spacing_px"):
        spacing = result.quantities.get(name, math.nan)
        if math.isfinite(spacing) and spacing > 0:
            return spacing
    atoms = 0 if result.atoms is None else len(result.atoms)
    return math.sqrt(max(1, int(scan.valid.sum())) / max(1, atoms))


def _mark_atoms(
    picture: NDArray[np.uint8], atoms: Atoms, spacing_px: float, zoom: float, *, dots_only: bool = False
) -> None:
    """Draw the atoms into the picture, in place; as mere dots where rings would hide what else is marked."""
    radius = float(np.clip((0.1 if dots_only else 0.34) * spacing_px * zoom, 1.2, 3.0 if dots_only else 26.0))
    marks = _dots(radius) if dots_only else _marks(radius)
    reach = marks.shape[-1] // 2
    cover = np.zeros((picture.shape[0] + 2 * reach, picture.shape[1] + 2 * reach), np.uint8)
    for group, colour in enumerate(ATOM_COLOURS):
        # Sublattices that were not assigned are red too; many sublattices share the colours in turn.
        members = atoms.yx_px[np.maximum(atoms.sublattice, 0) % len(ATOM_COLOURS) == group]
        if not len(members):
            continue
        cover[:] = 0
        # A pixel centre of the scan lies in the middle of its magnified pixels.
        places = np.rint(((members + 0.5) * zoom - 0.5) * PLACES).astype(int)
        inside = np.all((places >= 0) & (places < np.array(picture.shape[:2]) * PLACES), axis=1)
        for y, x in places[inside].tolist():
            window = cover[y // PLACES : y // PLACES + 2 * reach + 1, x // PLACES : x // PLACES + 2 * reach + 1]
            np.maximum(window, marks[y % PLACES, x % PLACES], out=window)
        alpha = cover[reach : reach + picture.shape[0], reach : reach + picture.shape[1], None].astype(np.float32) / 255
        picture[:] = np.rint(picture * (1 - alpha) + np.array(colour, np.float32) * alpha).astype(np.uint8)


def _marks(radius: float) -> NDArray[np.uint8]:
    """A ring with a centre dot at every sub-pixel place, ``(PLACES, PLACES, n, n)`` opacity; a mere dot when tiny."""
    line = float(np.clip(0.14 * radius, 1.1, 2.6))
    dot = float(np.clip(0.17 * radius, 1.0, 3.6))
    # A smaller ring would merge with its dot.
    return _stamps(dot, radius if radius >= 4.0 else math.inf, line, math.ceil(radius + line) + 1)


def _dots(radius: float) -> NDArray[np.uint8]:
    """A dot at every sub-pixel place, ``(PLACES, PLACES, n, n)`` opacity."""
    return _stamps(radius, math.inf, 0.0, math.ceil(radius) + 1)


def _stamps(dot: float, ring: float, line: float, reach: int) -> NDArray[np.uint8]:
    """A dot and a ring of these radii at every sub-pixel place."""
    axis = (np.arange((2 * reach + 1) * SMOOTHING) + 0.5) / SMOOTHING - 0.5 - reach
    marks = np.empty((PLACES, PLACES, 2 * reach + 1, 2 * reach + 1), np.uint8)
    for i in range(PLACES):
        for j in range(PLACES):
            away = np.hypot(axis[:, None] - i / PLACES, axis[None, :] - j / PLACES)
            ink = (away <= dot) | (np.abs(away - ring) <= line / 2)
            blocks = ink.reshape(2 * reach + 1, SMOOTHING, 2 * reach + 1, SMOOTHING)
            marks[i, j] = np.rint(255 * blocks.mean(axis=(1, 3)))
    return marks


def _draw_scale_bar(image: Image.Image, nm_per_px: float, unit: int) -> None:
    """A bar of a round length, about a fifth of the width, at the bottom left."""
    length_nm = _round_length(0.22 * image.width * nm_per_px)
    length = round(length_nm / nm_per_px)
    if length < 8:
        return
    label = f"{length_nm:g} nm"
    font = _font(unit)
    pen = ImageDraw.Draw(image)
    left, bottom = 24 * unit, image.height - 24 * unit
    # An outline, not a panel behind it: nothing that was found is hidden.
    pen.rectangle((left - 2 * unit, bottom - 9 * unit, left + length - 1 + 2 * unit, bottom + 2 * unit), fill=(0, 0, 0))
    pen.rectangle((left, bottom - 7 * unit, left + length - 1, bottom), fill=(255, 255, 255))
    place, rim = (left, bottom - 17 * unit), 3 * unit
    pen.text(place, label, font=font, fill=(255, 255, 255), anchor="ls", stroke_width=rim, stroke_fill=(0, 0, 0))


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ that is not longer."""
    decade = 10.0 ** math.floor(math.log10(length))
    return next(step * decade for step in (5, 2, 1) if step * decade <= length or step == 1)


def _font(unit: int) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(FONT_PX * unit))  # it is one wherever a size is given


def _with_footer(
    image: Image.Image, title: str, legend: Sequence[Entry], found: str, warning: str, unit: int
) -> Image.Image:
    """The picture above the legend, one line of text, and a second one for a warning."""
    font, line, margin = _font(unit), (FONT_PX + 12) * unit, 16 * unit
    width = max(image.width, 640)
    room = width - 2 * margin
    rows = legend_rows(legend, font, room)
    count = len(rows) + (2 if warning else 1)
    sheet = Image.new("RGB", (width, image.height + count * line + 8 * unit), FOOTER)
    sheet.paste(image, ((sheet.width - image.width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    base = image.height + (FONT_PX + 8) * unit
    for row in rows:
        draw_legend(pen, row, font, margin, base, TEXT)
        base += line
    gap = 24 * unit
    found = _shortened(pen, _latin(found), font, max(0.62 * room, room - gap - pen.textlength(_latin(title), font)))
    name = _shortened(pen, _latin(title), font, room - pen.textlength(found, font) - gap)
    pen.text((margin, base), name, font=font, fill=TEXT, anchor="ls")
    pen.text((sheet.width - margin, base), found, font=font, fill=FAINT, anchor="rs")
    if warning:
        words = _shortened(pen, _latin(warning), font, room)
        pen.text((margin, base + line), words, font=font, fill=AMBER, anchor="ls")
    return sheet


def _legend(results: Sequence[Result]) -> list[Entry]:
    """What the marks of the picture stand for: nothing where atoms are all there is."""
    entries: list[Entry] = []
    for defects in (result.defects for result in results):
        if defects is None:
            continue
        for kind in np.unique(defects.kind).tolist():
            count = int((defects.kind == kind).sum())
            entries.append(Entry("box", class_colour(kind), f"{_latin(defects.names[kind])[:LONGEST_NAME]} {count:,}"))
        if (defects.confirmed == 0).any():
            entries.append(Entry("dashed", FAINT, "not in the other scan direction"))
    if any(layer.name == STEPS and np.any(layer.data) for result in results for layer in result.maps):
        entries.append(Entry("line", STEP_COLOUR, "step"))
    if any(result.defects is not None for result in results):
        entries += [Entry("dot", ATOM_COLOURS[0], "atom") for result in results if result.counts.get("atoms")]
    return entries


def _summary(results: Sequence[Result]) -> str:
    """What was found, and by which model."""
    counts = [f"{count:,} {kind}" for result in results for kind, count in result.counts.items()]
    spacings = []
    for quantities in (result.quantities for result in results):
        for unit, name in (("nm", "spacing_nm"), ("px", "spacing_px")):
            if math.isfinite(quantities.get(name, math.nan)):
                spacings.append(f"spacing {quantities[name]:.3g} {unit}")
                break
    return "  ·  ".join(
        [
            *counts,
            *spacings,
            *_of_surface(results),
            *_of_noise(results),
            *(f"{result.model.name}@{result.model.version}" for result in results),
        ]
    )


def _of_surface(results: Sequence[Result]) -> list[str]:
    """How well a restored surface is known, what tip it was under and by how much it changed."""
    said = []
    for quantities in (result.quantities for result in results if result.tip is not None):
        for name, words in (
            ("certain_share", "{:.0%} certain"),
            ("tip_radius_nm", "tip radius {:.3g} nm"),
            ("rms_change_nm", "changed by {:.3g} nm rms"),
        ):
            if math.isfinite(quantities.get(name, math.nan)):
                said.append(words.format(quantities[name]))
        families = {name: chance for name, chance in quantities.items() if name.startswith(FAMILY)}
        if families:
            likely = max(families, key=families.__getitem__)
            said.append(f"{likely.removeprefix(FAMILY)} tip {families[likely]:.0%}")
    return said


def _of_noise(results: Sequence[Result]) -> list[str]:
    """How strong the noise was and how much was taken away: as a length, else as a share of the relief."""
    said = []
    for quantities in (result.quantities for result in results if result.task == "denoise"):
        for name, words in (("noise_before", "white noise"), ("taken_away_rms", "taken away")):
            in_nm, share = quantities.get(f"{name}_nm", math.nan), quantities.get(name, math.nan)
            if math.isfinite(in_nm):
                said.append(f"{words} {suited(in_nm, 'nm')} rms")
            elif math.isfinite(share):
                said.append(f"{words} {share:.2%} of the relief")
    return said


def _warning(scan: Scan, results: Sequence[Result]) -> str:
    """The first warning, and how many there are besides."""
    warnings = [*scan.warnings, *(warning for result in results for warning in result.warnings)]
    if not warnings:
        return ""
    more = f" (+{len(warnings) - 1} more)" if len(warnings) > 1 else ""
    return f"Warning{more}: {warnings[0]}"


def _latin(text: str) -> str:
    """The text in the characters that Pillow's own font has."""
    for there, here in (
        ("µ", "u"),
        ("μ", "u"),
        ("Å", "A"),
        ("×", "x"),
        ("–", "-"),
        ("—", "-"),
        ("−", "-"),
        ("ß", "ss"),
    ):
        text = text.replace(there, here)
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c if c in "·±…°" or " " <= c <= "~" else "?" for c in plain if not unicodedata.combining(c))


def _shortened(
    pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float
) -> str:
    """The text with its middle left out until it fits."""
    if pen.textlength(text, font) <= room:
        return text
    keep = len(text)
    while keep > 2:
        keep -= 1
        short = text[: (keep + 1) // 2].rstrip() + "…" + text[len(text) - keep // 2 :].lstrip()
        if pen.textlength(short, font) <= room:
            return short
    return "…"
