"""What the benchmarks that train networks to hear words share: folders of clips, runs, looks."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

import zoo
from zoo.files import replacing_folder
from zoo.registry.recipe import Recipe

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PEOPLE = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
DIGITS_LICENSE = "CC-BY-SA-4.0"


class Clip(NamedTuple):
    """A sound's file: its label, its name, what it holds."""

    label: str
    name: str
    content: bytes

    @property
    def person(self) -> str:
        """Who speaks, of a spoken digit."""
        return self.name.split("_")[0]

    @property
    def take(self) -> int:
        """Which of the times that this person says it."""
        return int(Path(self.name).stem.split("_")[1])


def digits(archive: Path) -> list[Clip]:
    """Return the clips of the Free Spoken Digit Dataset, `recordings/7_theo_12.wav`, by name."""
    found = []
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            if name.endswith(".wav"):
                digit, rest = Path(name).name.split("_", 1)
                found.append(Clip(DIGITS[int(digit)], rest, opened.read(name)))
    return found


def folder(path: Path, **parts: Iterable[Clip]) -> Path:
    """Write clips as `part/label/name`, once; return the folder."""
    if not path.is_dir():
        with replacing_folder(path) as out:
            for part, listed in parts.items():
                for clip in listed:
                    (out / part / clip.label).mkdir(parents=True, exist_ok=True)
                    (out / part / clip.label / clip.name).write_bytes(clip.content)
    return path


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    license: str,
    init: Path | None = None,
    **settings: Any,
) -> Path:
    """Train, or go on with what was killed; nothing to do where it was finished."""
    if (out / "metrics.json").is_file() and zoo.checkpoint(out).metrics["training"]["complete"]:
        return out
    zoo.train(
        recipe,
        out,
        data=str(data),
        init=None if init is None else str(init),
        resume=out.is_dir(),
        data_license=license,
        device="cpu",
        **settings,
    )
    return out


def integers(run: Path, data: Path) -> Path:
    """Return the folder of a run's int8 form, made once."""
    out = run.with_name(f"{run.name}-int8")
    if not out.is_dir():
        zoo.compress(str(run), out, method="int8", data=str(data), device="cpu")
    return out


def judged(run: Path, data: Path, name: str) -> float:
    """Return the accuracy on a test set; the first look is the record, and the only one."""
    found = zoo.checkpoint(run).metrics.get("evaluations", {}).get(name)
    return float((found or zoo.evaluate(str(run), str(data), record=name))["accuracy"])


def percent(share: float | None) -> str:
    """Return a share as tables print it."""
    return "" if share is None else f"{100 * share:.1f}"


def sound(clip: Clip) -> bytes:
    """Return the samples of a clip, which tell whether two are the same sound."""
    samples: bytes = soundfile.read(io.BytesIO(clip.content), dtype="int16")[0].tobytes()
    return samples
