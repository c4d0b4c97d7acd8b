"""The interference report as a picture: a square per pair, and a strip per tensor below."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from zoo.adapters.meeting import Meeting
from zoo.files import replacing

_INK, _GREY, _PAPER, _RULE = (15, 23, 42), (100, 116, 139), (255, 255, 255), (226, 232, 240)
_CALM, _ALARM = (219, 234, 254), (220, 38, 38)
_CELL, _LEFT, _TOP, _STRIP = 92, 150, 86, 26


def draw(
    names: Sequence[str],
    pairs: Mapping[tuple[str, str], Meeting],
    tensors: Mapping[tuple[str, str], Mapping[str, Meeting]],
    path: Path | None = None,
) -> Image.Image:
    """Draw the parts of an `InterferenceReport`; write the picture to `path` if one is given."""
    side = _LEFT + _CELL * len(names)
    width = max(side + 20, 760)
    height = _TOP + _CELL * len(names) + 74 + (_STRIP + 8) * len(pairs) + 30
    picture = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(17), ImageFont.load_default(12)
    pen.text((20, 14), "Interference between adapters", _INK, large)
    note = "above: share of both energies where signs differ, Jaccard; below: cosine, overlap"
    pen.text((20, 40), note, _GREY, small)
    labels = _labels(names)
    for i, name in enumerate(names):
        middle = i * _CELL + _CELL // 2
        pen.text((_LEFT + middle, _TOP - 10), _short(labels[name], 13), _INK, small, anchor="ms")
        pen.text((_LEFT - 10, _TOP + middle), _short(labels[name], 20), _INK, small, anchor="rm")
        for j, other in enumerate(names):
            corner = (_LEFT + j * _CELL, _TOP + i * _CELL)
            pair = (min(name, other), max(name, other))
            _cell(pen, corner, None if i == j else pairs[pair], i < j, large, small)
    top = _TOP + _CELL * len(names) + 30
    pen.text((20, top), "Tensor by tensor: height is overlap, colour the energy in conflict",
             _GREY, small)  # fmt: skip
    for k, pair in enumerate(pairs):
        label = _short(" + ".join(labels[name] for name in pair), 22)
        _strip(pen, label, tensors[pair], top + 28 + k * (_STRIP + 8), width, small)
    if path is not None:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG", optimize=True)
    return picture


def _cell(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    meeting: Meeting | None,
    above: bool,
    large: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    small: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    x, y = corner
    box = (x + 2, y + 2, x + _CELL - 2, y + _CELL - 2)
    if meeting is None:
        pen.rounded_rectangle(box, 6, fill=(248, 250, 252), outline=_RULE)
        return
    share = meeting.conflict_share if above else max(-meeting.cosine, 0.0)
    pen.rounded_rectangle(box, 6, fill=_heat(share), outline=_RULE)
    first = f"{share:.1%}" if above else f"{meeting.cosine:+.2f}"
    second = f"J {meeting.jaccard:.3f}" if above else f"{meeting.overlap:,}"
    ink = _INK if share < 0.45 else _PAPER
    pen.text((x + _CELL // 2, y + _CELL // 2 - 4), first, ink, large, anchor="mm")
    pen.text((x + _CELL // 2, y + _CELL // 2 + 18), second, ink, small, anchor="mm")


def _strip(
    pen: ImageDraw.ImageDraw,
    label: str,
    meetings: Mapping[str, Meeting],
    top: int,
    width: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """One bar per tensor that both change, in the order of names."""
    pen.text((_LEFT - 10, top + _STRIP // 2), label, _INK, font, anchor="rm")
    pen.line((_LEFT, top + _STRIP, width - 20, top + _STRIP), fill=_RULE)
    if not meetings:
        pen.text((_LEFT, top + _STRIP // 2), "no tensor in common", _GREY, font, anchor="lm")
        return
    step = (width - 20 - _LEFT) / len(meetings)
    for k, meeting in enumerate(meetings.values()):
        left = _LEFT + k * step
        height = max(round(_STRIP * meeting.overlap_share), 1)
        right = max(left + step - (1 if step > 3 else 0), left + 1)
        pen.rectangle(
            (left, top + _STRIP - height, right, top + _STRIP), fill=_heat(meeting.conflict_share)
        )


def _heat(share: float) -> tuple[int, int, int]:
    """Return pale blue for 0, red from one half on."""
    part = min(max(share * 2, 0.0), 1.0)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(_CALM, _ALARM, strict=True))
    return red, green, blue


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Return names without the words that all of them begin with: what tells them apart."""
    common = os.path.commonprefix(list(names)).rpartition("-")  # noqa: RUF071 (by letters)
    return {name: name.removeprefix(common[0] + common[1]) for name in names}


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
