"""A wake word in other words, and the level of a stream: false alarms an hour, and what it costs.

MLPerf Tiny's published file waits for *Marvin* (`str_ww_ref_model.tflite`, imported). It hears the
1000 clips of twelve words of Speech Commands, one after the other, and with 1.5 to 3 s of noise
between them (`benchmarks.kws_stream`). A detection in a clip of one of the ten words, in `silence`
or in a gap is a false alarm; one in an `unknown` clip may be *Marvin*, who is among the words that
such clips are drawn from: both are counted. Pieces of any size must give the same.

A keyword network wants its second at full scale, and a stream has no clip whose peak that could be.
What is used (`zoo.data.following`) is the peak of each second by itself. Measured beside it, on
the clips in their order: the largest sample of everything in the ten seconds before, and none. Run:

    python -m benchmarks.wake_word_stream --shared DATA [--refs REF ...]
"""

import argparse
import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

import zoo
from benchmarks.common import report
from benchmarks.kws_stream import RATE, mixed
from benchmarks.kws_synthetic import Clip, clips
from zoo.artifacts.resolution import resolve
from zoo.data import frontends, sound
from zoo.data.following import followed
from zoo.data.sound import Wave
from zoo.tasks.keyword_spotting.clips import UNKNOWN, inputs
from zoo.tasks.wake_word import Listener

HELD_S = 10  # seconds whose largest sample a running peak is
LATE_S = 0.5  # after a clip's end in which a detection is counted as in it
REFS = ("micronet-kws-s.synthetic", "micronet-kws-s.synthetic-int8")
Said = list[tuple[str, float, float]]


def in_a_row(real: list[Clip]) -> tuple[Wave, Said]:
    """Return the clips one after the other, and where each is."""
    waves = [wave_of(content) for _, _, content in sorted(real, key=lambda clip: clip[1])]
    ends = np.cumsum([len(wave) for wave in waves]) / RATE
    labels = [label for label, _, _ in sorted(real, key=lambda clip: clip[1])]
    begins = [0.0, *ends[:-1]]
    return np.concatenate(waves), list(zip(labels, begins, ends, strict=True))


def wave_of(content: bytes) -> Wave:
    """Return the samples of a clip."""
    wave: Wave = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    return wave


def cut(wave: Wave, seed: int) -> Iterator[Wave]:
    """Give a wave in pieces of random sizes, from none to two seconds."""
    dice, place = np.random.default_rng(seed), 0
    while place < len(wave):
        size = int(dice.integers(0, 2 * RATE))
        yield wave[place : place + size]
        place += size


def alarms(listener: Listener, wave: Wave, said: Said) -> dict[str, Any]:
    """Return how often, an hour, a word is detected, and in clips of which labels."""
    found = listener.push(wave)
    where: Counter[str] = Counter()
    for one in found:
        inside = [label for label, begin, end in said if begin <= one.time_s <= end + LATE_S]
        where["gap" if not inside else UNKNOWN if UNKNOWN in inside else inside[0]] += 1
    hours = len(wave) / RATE / 3600
    maybe = where[UNKNOWN]
    return {
        "hours": hours,
        "detections": len(found),
        "in_clips_of": dict(where),
        "per_hour_all": len(found) / hours,
        "per_hour_without_unknown": (len(found) - maybe) / hours,
        "times_s": [one.time_s for one in found],
    }


def same_in_pieces(make: Any, wave: Wave) -> bool:
    """Return whether three random ways to cut two minutes give the same detections."""
    part = wave[: 120 * RATE]
    whole = make().push(part)
    return all(list(followed(make(), cut(part, seed))) == whole for seed in range(3))


def levelled(waves: list[Wave], level: str) -> NDArray[np.float32]:
    """Return clips `(N, samples)` as a level brings them to full scale."""
    stack = np.stack(waves)
    peaks = np.abs(stack).max(1)
    if level == "as recorded":
        return stack
    if level == "running peak":
        peaks = np.array([peaks[max(0, n - HELD_S + 1) : n + 1].max() for n in range(len(peaks))])
    loud = np.where(peaks < sound.SILENCE, 1, peaks)
    return (stack / loud[:, None]).astype(np.float32)


@torch.inference_mode()
def levels(ref: str, real: list[Clip]) -> dict[str, float]:
    """Return a network's accuracy on the clips by the level that they are brought to."""
    artifact = resolve(ref)
    assert artifact.recipe is not None
    recipe, model = artifact.recipe, artifact.load()
    order = np.random.default_rng(0).permutation(len(real))
    samples = int(recipe.preprocessing["samples"])
    waves = [wave_of(real[n][2]) for n in order]
    waves = [np.pad(wave, (0, samples - len(wave))) for wave in waves]
    labels = list(recipe.preprocessing["labels"])
    truth = torch.tensor([labels.index(real[n][0]) for n in order])
    front = frontends.named(recipe.preprocessing["front_end"])
    found = {}
    for level in ("each second", "running peak", "as recorded"):
        x = torch.from_numpy(levelled(waves, level))
        parts = [inputs(front(part), recipe) for part in x.split(100)]
        hit = torch.cat([model(part).argmax(1) for part in parts]) == truth
        found[level] = float(hit.double().mean())
    return found


def main() -> None:
    """Listen, count, store; fail where how a sound is cut changes what is heard."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, required=True, help="files and data")
    parser.add_argument("--refs", nargs="*", default=list(REFS), help="keyword networks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    real = clips(args.shared / "speech-commands-12/kws01_wav.zip")
    with tempfile.TemporaryDirectory() as place:
        made = zoo.import_tflite(args.shared / "sww/str_ww_ref_model.tflite", f"{place}/marvin")
        model = zoo.load(f"{place}/marvin")
    easy = soundfile.read(args.shared / "sww/short_wav_easy10s.wav", dtype="float32")[0]
    spoken = Listener(model, made.recipe).push(easy)
    figures: dict[str, Any] = {"ten_seconds": [one.time_s for one in spoken]}
    rows = [["sound", "hours", "detections an hour", "without unknown clips"]]
    for name, (wave, said) in {"in a row": in_a_row(real), "with gaps": mixed(real)}.items():
        row = figures[name] = alarms(Listener(model, made.recipe), wave, said)
        rates = [f"{row[key]:.1f}" for key in ("per_hour_all", "per_hour_without_unknown")]
        rows.append([name, f"{row['hours']:.2f}", *rates])
        if not same_in_pieces(lambda: Listener(model, made.recipe), wave):
            raise SystemExit("detections depend on how the sound is cut")
    by_level = {Path(ref).name: levels(ref, real) for ref in args.refs}
    for ref, found in by_level.items():
        rows += [[ref, level, f"{100 * share:.1f} %", ""] for level, share in found.items()]
    facts = {"threshold": made.recipe.preprocessing["threshold"]}
    report("wake_word_stream", 1, {**facts, "marvin": figures, "levels": by_level}, rows)


if __name__ == "__main__":
    main()
