"""Pictures drawn by code, to train and test super resolution on text and screens.

A picture is a function of (kind, seed, number): nothing is downloaded and no licence but the fonts'
applies. Words are drawn letter by letter from English letter frequencies, so they contain nobody's
text.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoo.errors import MismatchError, UnknownNameError
from zoo.files import replacing_folder

KINDS = ("text", "screens")
SIZE = (480, 320)  # (width, height), as of the photographs of BSDS500
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
_WEIGHTS = np.array([12.7, 9.1, 8.2, 7.5, 7, 6.7, 6.3, 6.1, 6, 4.3, 4, 2.8, 2.8, 2.4, 2.4, 2.2, 2,
                     2, 1.9, 1.5, 1, 0.8, 0.15, 0.15, 0.1, 0.07])  # fmt: skip
# Free fonts where they are usually installed; without them, the one inside Pillow.
_FOLDERS = ("/usr/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
_FREE = ("DejaVu*.ttf", "Liberation*.ttf", "NotoSans-*.ttf", "NotoSerif-*.ttf")

Color = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@functools.cache
def _truetype(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size)


def free_fonts() -> list[Path]:
    """Return the free text fonts of this machine, in name order; possibly none."""
    fonts = {
        path.name: path
        for folder in map(Path, _FOLDERS)
        if folder.is_dir()
        for pattern in _FREE
        for path in folder.rglob(pattern)
        if "Math" not in path.name
    }
    return [fonts[name] for name in sorted(fonts)]


def render(out: Path, kind: str, count: int, *, seed: int = 0, fonts: Sequence[Path] = ()) -> Path:
    """Write a new folder of `count` pictures, from `0000.png` on, and return it.

    Args:
        out: the folder; it must not exist yet.
        kind: "text" (pages of prose, code and tables) or "screens" (windows, buttons, icons,
            charts, with little text).
        count: number of pictures.
        seed: seed of the whole set; sets of different seeds share no picture.
        fonts: files to draw with besides Pillow's own font.

    Raises:
        UnknownNameError: there is no such kind.
        MismatchError: the folder already exists, or a font cannot be read.

    """
    if kind not in KINDS:
        raise UnknownNameError.near("kind of picture", kind, KINDS, f"known: {', '.join(KINDS)}")
    if out.exists():
        raise MismatchError(f"{out} already exists; choose a new folder")
    with replacing_folder(out) as folder:
        for number in range(count):
            picture(kind, seed, number, fonts).save(folder / f"{number:04d}.png")
    return out


def picture(kind: str, seed: int, number: int, fonts: Sequence[Path] = ()) -> Image.Image:
    """Return one picture of `SIZE`."""
    random = np.random.Generator(np.random.Philox(key=[seed, (KINDS.index(kind) << 32) + number]))
    return _Page(random, fonts).text() if kind == "text" else _Page(random, fonts).screen()


class _Page:
    def __init__(self, random: np.random.Generator, fonts: Sequence[Path]) -> None:
        self.random, self.fonts = random, fonts
        dark = random.random() < 0.3
        low, high = sorted(int(v) for v in (random.integers(0, 60), random.integers(200, 256)))
        self.paper, self.ink = self._tint(low if dark else high), self._tint(high if dark else low)
        self.image = Image.new("RGB", SIZE, self.paper)
        self.draw = ImageDraw.Draw(self.image)

    def _int(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def _tint(self, level: int) -> Color:
        red, green, blue = np.clip(level + self.random.integers(-14, 15, 3), 0, 255).tolist()
        return red, green, blue

    def _color(self) -> Color:
        red, green, blue = self.random.integers(0, 256, 3).tolist()
        return red, green, blue

    def _font(self, size: int) -> Font:
        number = self._int(0, len(self.fonts) + 1)
        if number == len(self.fonts):
            return ImageFont.load_default(size)
        try:
            return _truetype(str(self.fonts[number]), size)
        except OSError as error:
            raise MismatchError(f"{self.fonts[number]} is not a font: {error}") from error

    def _word(self) -> str:
        length = 1 + min(11, int(self.random.poisson(3.8)))
        letters = self.random.choice(list(_LETTERS), length, p=_WEIGHTS / _WEIGHTS.sum())
        word = "".join(letters)
        dice = self.random.random()
        if dice < 0.12:
            return str(self._int(0, 10 ** self._int(1, 6)))
        if dice < 0.3:
            return word.capitalize()
        return word.upper() if dice < 0.34 else word

    def _line(self, words: int) -> str:
        parts = [self._word() for _ in range(words)]
        mark = self.random.choice(["", "", ".", ",", ":", ";", "()", "= 0", "%", "->", "{"])
        return " ".join(parts) + str(mark)

    def text(self) -> Image.Image:
        """Draw a page of one to three columns, each block in its own font."""
        columns = self._int(1, 4)
        width = SIZE[0] // columns
        for column in range(columns):
            self.draw.rectangle((column * width, 0, *SIZE), fill=self.paper)  # what ran over
            top = self._int(2, 14)
            while top < SIZE[1]:
                size = int(min(40, 8 + self.random.exponential(6)))
                font, left = self._font(size), column * width + self._int(3, 12)
                for _ in range(self._int(1, 7)):
                    line = self._line(self._int(1, 9))
                    self.draw.text((left, top), line, font=font, fill=self.ink)
                    top += int(size * 1.3)
                if self.random.random() < 0.25:
                    self.draw.line((left, top, left + width - 20, top), fill=self.ink)
                top += self._int(3, 14)
        return self.image

    def screen(self) -> Image.Image:
        """Draw overlapping windows on a plain or shaded desktop."""
        if self.random.random() < 0.5:
            ramp = np.linspace(0, 1, SIZE[1])[:, None, None]
            ends = np.array(self._color()), np.array(self._color())
            shade = np.broadcast_to(ends[0] * (1 - ramp) + ends[1] * ramp, (SIZE[1], SIZE[0], 3))
            self.image.paste(Image.fromarray(shade.astype(np.uint8)))
        for _ in range(self._int(2, 5)):
            self._window()
        bar = self._int(14, 28)
        self.draw.rectangle((0, SIZE[1] - bar, *SIZE), fill=self._tint(self._int(30, 230)))
        for slot in range(self._int(4, 12)):
            self._icon(4 + slot * (bar + 4), SIZE[1] - bar + 2, bar - 5)
        return self.image

    def _window(self) -> None:
        left, top = self._int(0, SIZE[0] - 120), self._int(0, SIZE[1] - 100)
        right = left + self._int(110, 320)
        bottom = top + self._int(80, 220)
        radius = self._int(0, 9)
        paper = self._tint(self._int(0, 256))
        ink = self._tint(20 if sum(paper) > 380 else 235)
        self.draw.rounded_rectangle(
            (left, top, right, bottom), radius, fill=paper, outline=self._color()
        )
        size = self._int(8, 15)
        self.draw.rectangle((left + 1, top + 1, right - 1, top + size + 7), fill=self._color())
        self.draw.text((left + 6, top + 3), self._line(2), font=self._font(size), fill=ink)
        row = top + size + 12
        while row < bottom - 16:
            row = self._item(left + 8, row, right - 8, bottom, ink)

    def _item(self, left: int, top: int, right: int, bottom: int, ink: Color) -> int:
        """Draw one widget from `top` on; return where the next begins."""
        kind, size = self._int(0, 6), self._int(8, 14)
        font = self._font(size)
        if kind == 0:
            self.draw.rounded_rectangle(
                (left, top, left + 60, top + size + 6), self._int(0, 6), fill=self._color()
            )
            self.draw.text((left + 6, top + 2), self._word(), font=font, fill=ink)
        elif kind == 1:
            self.draw.rectangle((left, top, left + size, top + size), outline=ink)
            self.draw.text((left + size + 5, top), self._line(2), font=font, fill=ink)
        elif kind == 2:
            share = left + int((right - left) * self.random.random())
            self.draw.rectangle((left, top, right, top + 6), outline=ink)
            self.draw.rectangle((left, top, share, top + 6), fill=self._color())
        elif kind == 3 and bottom - top > 40:
            points = [(x, top + self._int(0, 34)) for x in range(left, right, max(4, size))]
            self.draw.line(points, fill=self._color(), width=self._int(1, 3))
            self.draw.rectangle((left, top, right, top + 36), outline=ink)
            return top + 42
        elif kind == 4:
            for slot in range(self._int(1, 6)):
                self._icon(left + slot * (size + 8), top, size + 3)
        else:
            self.draw.text((left, top), self._line(self._int(1, 5)), font=font, fill=ink)
        return top + size + self._int(6, 12)

    def _icon(self, left: int, top: int, size: int) -> None:
        box = (left, top, left + size, top + size)
        kind, fill = self._int(0, 4), self._color()
        if kind == 0:
            self.draw.ellipse(box, fill=fill)
        elif kind == 1:
            self.draw.rectangle(box, fill=fill, outline=self._color())
        elif kind == 2:
            self.draw.polygon(
                [(left, top + size), (left + size // 2, top), (left + size, top + size)], fill=fill
            )
        else:
            self.draw.line(box, fill=fill, width=2)
            self.draw.line((left + size, top, left, top + size), fill=fill, width=2)
