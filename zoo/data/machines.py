"""Sounds of machines, normal and anomalous: files and arrays of them, as spectrograms.

Which machine a clip is of, and whether it sounds normal, is told by its name as in DCASE's task 2
of 2020 (`normal_id_01_00000000.wav`, `anomaly_id_01_00000000.wav`), or by its folders as in MIMII
(`id_01/normal/00000000.wav`, `id_01/abnormal/00000000.wav`). Arrays lie in `.npz` files:
`spectrograms` `(N, bands, frames)` in dB, `machines` `(N,)` and, if some are, `anomalies` `(N,)`.
"""

import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data import sound
from zoo.data.frontends import FrontEnd
from zoo.errors import MismatchError

_STEP_DB = 1 / 128  # of the stored integers, which reach 256 dB up and down
_PART = 2**20  # samples whose spectra are computed at once
_NAME = re.compile(r"(normal|anomaly)_id_([^_.]+)")
_FOLDERS = re.compile(r"id_([^/]+)/(normal|abnormal)/[^/]*$")
_EXPECTED = (
    "expected names such as normal_id_01_00000000.wav and anomaly_id_01_00000000.wav, or folders "
    "id_01/normal and id_01/abnormal"
)


@dataclass(frozen=True)
class Clips:
    """Spectrograms of clips, of any lengths.

    Attributes:
        frames: all frames of all clips, one after the other, `(frames, bands)` in steps of 1/128 dB
            as int16.
        starts: the first frame of each clip, and after the last clip the number of all frames.
        machines: of each clip.
        anomalies: whether each clip is anomalous, `(N,)`.
        names: of each clip.

    """

    frames: Tensor
    starts: Tensor
    machines: tuple[str, ...]
    anomalies: NDArray[np.bool_]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.machines)

    def windows(self, clips: Tensor, first: Tensor, frames: int) -> Tensor:
        """Return windows `(N, frames, bands)` in dB, from frame `first` `(N,)` of `clips` `(N,)`.

        Both may have more dimensions, which come before those of the windows.
        """
        place = (self.starts[clips] + first)[..., None] + torch.arange(frames)
        return self.frames[place].float() * _STEP_DB

    def lengths(self) -> Tensor:
        """Return the number of frames of each clip `(N,)`."""
        return self.starts.diff()

    def some(self, chosen: Sequence[int]) -> "Clips":
        """Return a few of the clips."""
        parts = [self.frames[self.starts[k] : self.starts[k + 1]] for k in chosen]
        return _joined(
            parts,
            [self.machines[k] for k in chosen],
            self.anomalies[list(chosen)],
            [self.names[k] for k in chosen],
        )


def together(*several: Clips) -> Clips:
    """Return the clips of several sets as one."""
    parts = [clips.some([k]).frames for clips in several for k in range(len(clips))]
    return _joined(
        parts,
        [machine for clips in several for machine in clips.machines],
        np.concatenate([clips.anomalies for clips in several]),
        [name for clips in several for name in clips.names],
    )


def _joined(
    parts: Sequence[Tensor], machines: Iterable[str], anomalies: Any, names: Iterable[str]
) -> Clips:
    starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)
    truth = np.asarray(anomalies, bool)
    return Clips(torch.cat(list(parts)), starts, tuple(machines), truth, tuple(names))


def _stored(spectrogram: Tensor) -> Tensor:
    return (spectrogram / _STEP_DB).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)


# --- one clip -------------------------------------------------------------------------------------


def spectrogram(source: Any, front: FrontEnd, least: int) -> Tensor:
    """Return the spectrogram `(frames, bands)`, in dB, of a sound or of an array of energies.

    Args:
        source: a file, a wave `(samples,)` or `(samples, channels)`, or energies in dB
            `(bands, frames)`, where bands are those of the front end or a multiple of them: then
            the energies of neighbours are averaged.
        front: the front end.
        least: frames that it must have.

    Raises:
        MismatchError: it is not a sound, silent, or too short.

    """
    if not isinstance(source, str | Path):
        energies = np.asarray(source)
        bands = {k * front.bands for k in (1, 2, 4)}  # a wave of so few samples is no frame
        if energies.ndim == 2 and energies.dtype.kind == "f" and len(energies) in bands:
            return _of_energies(energies, front, least, "the array")
    wave = sound.read(source, front.rate)
    name = str(source) if isinstance(source, str | Path) else "the array"
    if np.abs(wave).max() < sound.SILENCE:
        raise MismatchError(f"{name} is silent: no sample reaches {sound.SILENCE:g}")
    if (found := front.frames(len(wave))) < least:
        raise _short(name, found, least, front)
    step = _PART // front.hop
    parts = []
    for start in range(0, found, step):
        count = min(step, found - start)
        first = start * front.hop
        part = torch.from_numpy(wave[first : first + (count - 1) * front.hop + front.window])
        parts.append(front(part[None])[0, 0])
    return torch.cat(parts)


def _of_energies(energies: NDArray[np.floating], front: FrontEnd, least: int, name: str) -> Tensor:
    if not np.isfinite(energies).all():
        raise MismatchError(f"{name} has an energy that is not a number")
    if len(energies) % front.bands:
        raise MismatchError(
            f"{name} has {len(energies)} bands; expected {front.bands}, or a multiple"
        )
    if energies.shape[1] < least:
        raise _short(name, energies.shape[1], least, front)
    found = torch.from_numpy(np.ascontiguousarray(energies.T, np.float64))
    if found.shape[1] != front.bands:
        powers = (10 ** (found / 10)).unflatten(1, (front.bands, -1)).mean(2)
        found = 10 * (powers + front.floor).log10()
    return found.float()


def _short(name: str, found: int, least: int, front: FrontEnd) -> MismatchError:
    seconds = ((least - 1) * front.hop + front.window) / front.rate
    return MismatchError(
        f"{name} has {found} frames; expected {least} or more, {seconds:.2f} s of sound"
    )


# --- many clips -----------------------------------------------------------------------------------


def told(path: Path) -> tuple[str, bool]:
    """Return the machine that a clip is of, and whether it is anomalous.

    Raises:
        MismatchError: neither its name nor its folders tell.

    """
    if by_name := _NAME.match(path.name):
        return by_name[2], by_name[1] == "anomaly"
    if by_folders := _FOLDERS.search(path.as_posix()):
        return by_folders[1], by_folders[2] == "abnormal"
    raise MismatchError(f"{path} does not say which machine it is of; {_EXPECTED}")


def single(source: Any, front: FrontEnd, least: int) -> Clips:
    """Return one clip; its machine is "" if its name does not tell, and it counts as normal."""
    parts = [_stored(spectrogram(source, front, least))]
    try:
        machine = told(Path(source))[0] if isinstance(source, str | Path) else ""
    except MismatchError:
        machine = ""
    return _joined(parts, [machine], [False], [""])


def part(folder: Path, *names: str) -> Path:
    """Return the folder or `.npz` file of the first of these names in `folder`, else `folder`."""
    found = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".npz"))
    return next((path for path in found if path.exists()), folder)


def machines(place: Path) -> list[str]:
    """Return the machines of a folder or an `.npz` file, sorted; no sound is decoded."""
    if place.suffix == ".npz":
        return sorted(set(_arrays(place)[1]))
    return sorted({told(path)[0] for path in sound.find(place)})


def read(place: Path, front: FrontEnd, least: int, *, anomalies: bool = True) -> Clips:
    """Return the clips of a folder or an `.npz` file, in the order of their names.

    Args:
        place: a folder of sounds, at any depth, or a file of arrays.
        front: the front end.
        least: frames that each clip must have.
        anomalies: whether anomalous clips are wanted; normal ones always are.

    Raises:
        MismatchError: there is no such place, a clip cannot be used, or none is left.

    """
    if place.suffix == ".npz":
        spectrograms, of, truth = _arrays(place)
        rows = [k for k in range(len(of)) if anomalies or not truth[k]]
        names = [f"{place.name}[{k}]" for k in rows]
        parts = [
            _stored(_of_energies(spectrograms[k], front, least, name))
            for k, name in zip(rows, names, strict=True)
        ]
        facts = [(of[k], bool(truth[k])) for k in rows]
    else:
        files = [(path, told(path)) for path in sound.find(place)]
        files = [(path, fact) for path, fact in files if anomalies or not fact[1]]
        parts = [_stored(spectrogram(path, front, least)) for path, _ in files]
        names = [path.relative_to(place).as_posix() for path, _ in files]
        facts = [fact for _, fact in files]
    if not parts:
        raise MismatchError(f"{place} has no normal clips; {_EXPECTED}")
    return _joined(parts, [fact[0] for fact in facts], [fact[1] for fact in facts], names)


def _arrays(file: Path) -> tuple[NDArray[np.floating], list[str], NDArray[np.bool_]]:
    """Return the spectrograms, machines and truth of an `.npz` file."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise MismatchError(f"{file} cannot be read: {error}") from error
    expected = "expected spectrograms (N, bands, frames) in dB, machines (N,) and anomalies (N,)"
    if missing := {"spectrograms", "machines"} - found.keys():
        raise MismatchError(f"{file} has no {' and no '.join(sorted(missing))}; {expected}")
    spectrograms, of = found["spectrograms"], found["machines"]
    truth = found.get("anomalies", np.zeros(len(of), bool))
    if spectrograms.ndim != 3 or spectrograms.dtype.kind != "f":
        raise MismatchError(
            f"{file} has spectrograms of {spectrograms.shape} {spectrograms.dtype}; {expected}"
        )
    if of.ndim != 1 or truth.ndim != 1 or truth.dtype.kind not in "biu":
        raise MismatchError(
            f"{file} has machines of {of.shape} {of.dtype} and anomalies of {truth.shape} "
            f"{truth.dtype}; {expected}, true or 1 for an anomalous clip"
        )
    if not len(spectrograms) == len(of) == len(truth):
        raise MismatchError(
            f"{file} has {len(spectrograms)} spectrograms, {len(of)} machines and {len(truth)} "
            f"anomalies; {expected}"
        )
    return spectrograms, [str(machine) for machine in of.tolist()], truth.astype(bool)
