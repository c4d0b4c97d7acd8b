"""Sounds: reading files of any rate and number of channels as mono waves of one rate."""

import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError, MissingExtraError

Wave = NDArray[np.float32]
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
MOST_SECONDS = 2 * 3600.0
SILENCE = 1e-4  # the largest sample of a sound that has nothing in it
_FULL, _CLIPPED = 0.98, 0.01  # level of full scale, and the share of samples there in clipped ones
_CHANNELS = 64  # more are samples: the array is the other way round
_LOG = logging.getLogger("zoo")


def find(folder: Path) -> list[Path]:
    """Return the sounds of a folder and of its folders, sorted.

    Raises:
        MismatchError: there is no such folder, or it has no sounds.

    """
    if not folder.is_dir():
        raise MismatchError(f"no such folder: {folder}")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise MismatchError(f"no sounds in {folder}; expected files {', '.join(SUFFIXES)}")
    return found


def read(source: Any, rate: int) -> Wave:
    """Return a sound as mono `(samples,)` at `rate` samples a second, full scale from -1 to 1.

    Channels are averaged, and other rates are resampled by soxr, which a line says. An array is
    taken to have that rate already: `(samples,)` or `(samples, channels)`, floats, or integers of
    their full scale. A sound of `datasets`, {"array": ..., "sampling_rate": ...}, has its own.

    Raises:
        MismatchError: there is no such file, it is no sound, empty, or longer than two hours; or
            a value is not finite.
        MissingExtraError: soundfile and soxr are not installed.

    """
    if isinstance(source, str | Path):
        return _of_file(Path(source).expanduser(), rate)
    if isinstance(source, Mapping):
        found = source.get("sampling_rate")
        if "array" not in source or not isinstance(found, int | float) or not 0 < found < 1e7:
            raise MismatchError(
                f"a mapping of {', '.join(map(str, source))} is no sound; expected a row's "
                '{"array": ..., "sampling_rate": ...}'
            )
        return _resampled(read(source["array"], rate), found, rate)
    wave = _array(source)
    if wave.ndim not in (1, 2) or wave.dtype.kind not in "iuf" or wave.size == 0:
        raise MismatchError(
            f"an array of shape {wave.shape} and type {wave.dtype} is no sound; expected "
            "(samples,) or (samples, channels) of numbers"
        )
    if wave.ndim == 2 and wave.shape[1] > _CHANNELS:
        raise MismatchError(
            f"an array of shape {wave.shape} has {wave.shape[1]} channels; expected "
            "(samples, channels), so give its transpose, .T"
        )
    if wave.dtype.kind == "i":
        wave = wave / -float(np.iinfo(wave.dtype).min)
    elif wave.dtype.kind == "u":
        half = (float(np.iinfo(wave.dtype).max) + 1) / 2
        wave = (wave - half) / half
    return _mono(wave, "the array")


def microphone(rate: int, seconds: float = 0.1) -> Iterator[Wave]:
    """Give what the default microphone hears, in pieces `(samples,)`, until it is closed.

    Raises:
        MissingExtraError: sounddevice is not installed.
        MismatchError: there is no microphone, or it stopped.

    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: without the PortAudio library
        raise MissingExtraError.of("sounddevice", "microphone") from error
    try:
        with sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32") as device:
            while True:
                piece, _ = device.read(max(1, round(rate * seconds)))
                yield np.ascontiguousarray(piece[:, 0])
    except sounddevice.PortAudioError as error:
        raise MismatchError(
            f"no microphone can be heard: {str(error).splitlines()[0]}; give a sound's file instead"
        ) from error


def _array(source: Any) -> NDArray[Any]:
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    try:
        return np.asarray(source)
    except ValueError as error:  # of pieces of several lengths, as a pair of rate and wave
        raise MismatchError(
            f"a {type(source).__name__} of several shapes is no sound; expected (samples,) or "
            "(samples, channels) of numbers"
        ) from error


def _of_file(path: Path, rate: int) -> Wave:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError.of("soundfile", "audio") from error
    if path.is_dir():
        raise MismatchError(f"{path} is a folder; expected a sound, {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise MismatchError(f"no such file: {path}")
    try:
        with soundfile.SoundFile(path) as file:
            found = file.samplerate
            if file.frames > MOST_SECONDS * found:
                hours = file.frames / found / 3600
                raise MismatchError(f"{path} is {hours:.1f} hours long; expected at most two")
            wave = file.read(file.frames, dtype="float32", always_2d=True)  # GSM cannot seek
    except (soundfile.SoundFileError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise MismatchError(
            f"{path} is not a sound: {reason}; expected one of {', '.join(SUFFIXES)}"
        ) from error
    if not len(wave):
        raise MismatchError(f"{path} is empty: it has no samples")
    return _resampled(_mono(wave, str(path)), found, rate)


def _resampled(wave: Wave, found: float, rate: int) -> Wave:
    if found == rate:
        return wave
    try:
        import soxr
    except ImportError as error:
        raise MissingExtraError.of("soxr", "audio") from error
    _note(found, rate)
    resampled: Wave = soxr.resample(wave, found, rate, quality="HQ")
    return resampled


@functools.cache  # once for a folder of thousands
def _note(found: float, rate: int) -> None:
    lost = f"; above {found // 2:.0f} Hz there is nothing to hear" if found < rate else ""
    _LOG.warning("sounds of %.0f Hz are resampled to %d Hz%s", found, rate, lost)


def _mono(wave: NDArray[Any], name: str) -> Wave:
    if not np.isfinite(wave).all():
        raise MismatchError(f"{name} has a sample that is not a number")
    return np.asarray(wave.mean(1) if wave.ndim == 2 else wave, np.float32)


def remarks(wave: Wave) -> list[str]:
    """Return what makes a sound worth little, though it can be heard: it is silent, or clipped."""
    level = np.abs(wave)
    if level.max(initial=0) < SILENCE:
        return ["the sound is silent, and what is heard in it means nothing; is the microphone on?"]
    if (share := float((level >= _FULL).mean())) > _CLIPPED:
        return [f"{share:.0%} of the sound is at full scale: it is clipped; record it more softly"]
    return []


def remark(wave: Wave) -> None:
    """Say the `remarks` of a sound."""
    for text in remarks(wave):
        _LOG.warning("%s", text)


def remark_middle(wave: Wave, seconds: float, rate: int) -> None:
    """Say the `remarks` of a sound, and whether it is so long that only its middle is heard.

    Args:
        wave: the sound.
        seconds: what is heard of it.
        rate: its samples a second.

    """
    remark(wave)
    if (length := len(wave) / rate) > 2 * seconds:
        _LOG.warning(
            "the sound is %.0f s long, and its middle %.3g s is heard; add --stream for all of it",
            length, seconds,
        )  # fmt: skip


def fitted(wave: Wave, samples: int) -> Wave:
    """Return the middle of a wave, or the wave between zeros, of that many samples."""
    missing = samples - len(wave)
    if missing <= 0:
        start = -missing // 2
        return wave[start : start + samples]
    return np.pad(wave, (missing // 2, missing - missing // 2))


def trimmed(wave: Wave, below_db: float = -35.0, edge: int = 0) -> Wave:
    """Return a wave from its first to its last sample that is not `below_db` of the loudest.

    Up to `edge` samples before and after are kept too. Silence is left as it is.
    """
    level = np.abs(wave)
    heard = np.flatnonzero(level > level.max(initial=0) * 10 ** (below_db / 20))
    if not len(heard):
        return wave
    return wave[max(0, heard[0] - edge) : heard[-1] + 1 + edge]
