"""Make training clips of words from synthetic voices: the twelve of Speech Commands, or any words.

Packaged synthesisers say each word in many voices, speeds, pitches and accents (`voices.toml` lists
them with their licences). The folder has `train` and `val`, whose voices are others, and in each a
folder for every word and `unknown` for other words. Silence has no folder: `zoo train` makes it of
noise. Nothing is downloaded: what is missing is named, with the command that fetches it. A run that
was stopped goes on where it was, and gives the same clips.

Run: python -m benchmarks.data.voices --packages DIR --out DIR
     python -m benchmarks.data.voices --out DIR --words lamp fan heater --engines espeak-ng flite
"""

import argparse
import io
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.data import synthesisers
from benchmarks.data.synthesisers import RATE, Engine
from zoo.data import sound
from zoo.files import write_bytes

WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
OTHERS = (
    "backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four", "happy",
    "house", "learn", "marvin", "nine", "one", "seven", "sheila", "six", "three", "tree", "two",
    "visual", "wow", "zero",
)  # fmt: skip
CLIPS = {"espeak-ng": 150, "flite": 40, "festival": 20, "kokoro": 46}  # of a word, to train on
SHARE = {"word": 1.0, "other": 0.3, "val": 0.1}  # other words together outnumber a word: fewer each
_EDGE = 0.06  # seconds kept before and after what is heard


def checked(words: Sequence[str]) -> list[str]:
    """Return the words without repetition.

    Raises:
        SystemExit: one cannot be a label.

    """
    for word in words:
        if not word.strip() or word in ("unknown", "silence") or word[0] in "_.-" or "/" in word:
            raise SystemExit(f"{word!r} cannot be a label; expected a word such as 'lamp'")
    return list(dict.fromkeys(words))


def chosen(names: Sequence[str] | None, packages: Path) -> list[Engine]:
    """Return the engines that are here, and say what is missing.

    Raises:
        SystemExit: an engine that was asked for is missing, or all are.

    """
    every = synthesisers.engines(packages)
    here = []
    for name in names or every:
        needed = every[name].missing()
        if needed is None:
            here.append(every[name])
        elif names:
            raise SystemExit(f"{name} is missing; type: {needed}")
        else:
            print(f"without {name}; to have it, type: {needed}", file=sys.stderr)
    if not here:
        raise SystemExit("no synthesiser is here; one of those above is enough")
    return here


def plan(words: Sequence[str], engine: str, scale: float) -> list[tuple[str, str, int]]:
    """Return (part, word, number) of each clip, in rounds: stopped anywhere, words are even."""
    clips = CLIPS[engine] * scale
    others = [word for word in OTHERS if word not in words]
    found = []
    for part, share in (("train", 1.0), ("val", SHARE["val"])):
        for group, kind in ((words, "word"), (others, "other")):
            count = max(1, round(clips * share * SHARE[kind]))
            found += [
                ((number + 0.5) / count, part, word, number)
                for number in range(count)
                for word in group
            ]
    return [(part, word, number) for _, part, word, number in sorted(found)]


def spoken(engine: Engine, part: str, word: str, number: int, seed: int) -> sound.Wave:
    """Return a clip, a function of its arguments alone: the word with little silence around."""
    key = zlib.crc32(f"{engine.name}/{part}/{word}".encode())
    dice = np.random.Generator(np.random.Philox(key=[seed, key * 2**20 + number]))
    wave = engine.say(word, dice, held_out=part == "val")
    return sound.trimmed(wave, edge=round(_EDGE * RATE))


def write(path: Path, wave: sound.Wave) -> None:
    """Write a wave at 16 kHz with 16 bits, its largest sample at half of full scale."""
    buffer = io.BytesIO()
    scaled = wave * (0.5 / max(float(np.abs(wave).max()), 1e-6))
    soundfile.write(buffer, scaled, RATE, format="WAV", subtype="PCM_16")
    write_bytes(path, buffer.getvalue())


def table(out: Path) -> str:
    """Return the table of what speaks in a folder, with licences."""
    lines = ["# Voices", "", "| engine | by | licence | clips |", "|---|---|---|---:|"]
    for name, known in synthesisers.facts().items():
        clips = len(list(out.glob(f"*/*/*{name}-[0-9]*.wav")))
        if clips:
            lines.append(
                f"| [{name}]({known['page']}) | {known['by']} | {known['license']} | {clips} |"
            )
    return "\n".join([*lines, "", "No licence restricts the audio that an engine makes.", ""])


def main() -> None:
    """Make or go on with a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to make or go on with")
    parser.add_argument("--words", nargs="+", default=WORDS, metavar="WORD", help="yours")
    parser.add_argument("--engines", nargs="+", choices=CLIPS, help="default: those that are here")
    parser.add_argument("--packages", type=Path, default=Path(), help="where Kokoro's lie")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many clips")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    words = checked(args.words)
    made = long = 0
    for engine in chosen(args.engines, args.packages):
        for part, word, number in plan(words, engine.name, args.scale):
            label, mark = (word, "") if word in words else ("unknown", f"{word}-")
            path = args.out / part / label / f"{mark}{engine.name}-{number:04d}.wav"
            if not path.is_file():
                wave = spoken(engine, part, word, number, args.seed)
                write(path, wave)
                made, long = made + 1, long + (len(wave) > RATE)
        write_bytes(args.out / "VOICES.md", table(args.out).encode())
    if long:
        print(f"{long} clips are longer than a second; of those, training hears the middle")
    print(f"{args.out}: {made} clips made")


if __name__ == "__main__":
    main()
