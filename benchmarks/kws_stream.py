"""Twelve words in a sound without end: misses, false alarms an hour, and delay.

    python -m benchmarks.kws_stream --real kws01_wav.zip [--ref micronet-kws-s.synthetic]

The 1000 real clips of Speech Commands stand one after the other, with 1.5 to 3 s between them, in
noise 20 to 40 dB below a clip's peak; so do its `unknown` and `silence` clips, in which every
detection is a false alarm. A word counts as heard if it is detected from its clip's middle to half
a second after its end. The settings are the defaults of `zoo.data.following.Patience`, and
thresholds around them. Chunks of any size must give the same detections.
"""

import argparse
import io
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.common import report
from benchmarks.kws_synthetic import Clip, clips
from zoo.artifacts.resolution import resolve
from zoo.data.following import Patience, followed
from zoo.data.heard import Detection
from zoo.data.sound import Wave
from zoo.tasks import keyword_spotting as task

RATE, LATE_S = 16000, 0.5
THRESHOLDS = (0.5, 0.7, 0.9)
Said = tuple[str, float, float]  # label, beginning, end in seconds


def mixed(real: list[Clip], seed: int = 0) -> tuple[Wave, list[Said]]:
    """Return all clips as one wave, in an order and with gaps of this seed, and where each is."""
    dice = np.random.default_rng(seed)
    parts: list[Wave] = []
    said: list[Said] = []
    place = 0
    for number in dice.permutation(len(real)):
        label, _, content = real[number]
        clip = soundfile.read(io.BytesIO(content), dtype="float32")[0]
        gap = int(dice.uniform(1.5, 3) * RATE)
        level = float(np.abs(clip).max()) * 10 ** (-dice.uniform(20, 40) / 20) / 3
        noise = dice.standard_normal(gap + len(clip)).astype(np.float32) * max(level, 1e-4)
        noise[gap:] += clip
        parts.append(noise)
        said.append((label, (place + gap) / RATE, (place + len(noise)) / RATE))
        place += len(noise)
    return np.concatenate(parts), said


def judged(found: list[Detection], said: list[Said], hours: float) -> dict[str, float]:
    """Return the share of words missed, false alarms an hour, and the mean delay in seconds."""
    words = [one for one in said if one[0] not in ("silence", "unknown")]
    delays, used = [], set[int]()
    for label, begin, end in words:
        span = ((begin + end) / 2, end + LATE_S)
        for place, one in enumerate(found):
            if place not in used and one.word == label and span[0] <= one.time_s <= span[1]:
                used.add(place)
                delays.append(one.time_s - end)
                break
    return {
        "missed": 1 - len(delays) / len(words),
        "false_alarms_per_hour": (len(found) - len(used)) / hours,
        "delay_s": statistics.mean(delays) if delays else float("nan"),
    }


def main() -> None:
    """Listen, count and store."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real", type=Path, required=True, help="the archive of 1000 clips")
    parser.add_argument("--ref", default="micronet-kws-s.synthetic")
    args = parser.parse_args()
    torch.set_num_threads(1)
    wave, said = mixed(clips(args.real))
    hours = len(wave) / RATE / 3600
    artifact = resolve(args.ref)
    assert artifact.recipe is not None
    model = artifact.load()
    rows = [["threshold", "words missed", "false alarms an hour", "delay"]]
    figures: dict[str, Any] = {}
    for threshold in THRESHOLDS:
        follower = task.follower(model, artifact.recipe, threshold=threshold)
        found = follower.push(wave)
        row = figures[str(threshold)] = judged(found, said, hours)
        rows.append([
            f"{threshold}", f"{100 * row['missed']:.1f} %",
            f"{row['false_alarms_per_hour']:.0f}", f"{row['delay_s']:.2f} s",
        ])  # fmt: skip
        if threshold == Patience().threshold:
            part = wave[: 120 * RATE]
            cut = task.follower(model, artifact.recipe)
            pieces = np.array_split(part, 97)
            same = list(followed(cut, pieces)) == [d for d in found if d.time_s <= 120]
            figures["the same in pieces"] = same
            if not same:
                raise SystemExit("detections depend on how the sound is cut")
    facts = {"ref": args.ref, "hours": hours, "clips": len(said), "thresholds": figures}
    report("kws_stream", 1, facts, rows)


if __name__ == "__main__":
    main()
