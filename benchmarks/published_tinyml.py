"""Goals for TinyML's published files, imported: what they reach on raw sounds and pictures.

MicroNet-KWS-M at least 95.0 % of 1000 clips of Speech Commands, MLPerf Tiny's within 0.3 points of
90.1 %, its autoencoder's AUC within 0.002 of 0.86; and every integer is TFLite Micro's. Files and
data are the benchmarks' own; see `zoo show NAME` for where the files are. Run:

    python -m benchmarks.published_tinyml --shared DATA --runs DIR
"""

import argparse
import csv
import dataclasses
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

import zoo
from benchmarks import anomaly_toycar
from benchmarks.common import report
from zoo.deploy.file_network import FileNetwork
from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.vela import compile_graph
from zoo.files import replacing_folder
from zoo.graph.layout import channels_first
from zoo.registry.layout import FILE
from zoo.runtime.integer import IntegerNetwork

NPU = "ethos-u55-128"
INPUTS = 32  # random ones that are compared with TFLite Micro
# Where MLPerf Tiny says that the word is in its wave of ten seconds.
SPANS = [[1.0, 1.647625], [4.0, 4.76175], [7.0, 7.358625]]
# File, data, and what is measured with its goal: (metric, value, tolerance below, above).
Goal = tuple[str, float, float, float]
FILES: Mapping[str, tuple[str, str, Goal | None]] = {
    "MicroNet-KWS-M": ("tflite/micronet_kws_m_int8", "words", ("accuracy", 0.95, 0, 1)),
    "MLPerf KWS": ("tflite/mlperf_kws_int8", "words", ("accuracy", 0.901, 0.003, 0.003)),
    "MLPerf IC": ("tflite/mlperf_ic_resnet8_int8", "pictures", ("accuracy", 0.85, 0, 1)),
    "MLPerf VWW": ("tflite/mlperf_vww_96_int8", "people", ("accuracy", 0.80, 0, 1)),
    "MicroNet-VWW-4": ("tflite/micronet_vww4_128_128_INT8", "people", None),
    "MLPerf AD": ("tflite/mlperf_ad01_int8", "cars/test.npz", ("pooled_auc", 0.86, 0.002, 0.002)),
    "MLPerf SWW": ("sww/str_ww_ref_model", "stream", None),
}


def lay_out(shared: Path, folder: Path) -> None:
    """Write the data as the zoo reads them."""
    if folder.is_dir():
        return
    with replacing_folder(folder) as new:
        with zipfile.ZipFile(shared / "speech-commands-12/kws01_wav.zip") as archive:
            archive.extractall(new / "words")
        packed = np.load(shared / "cifar10/cifar10_test500_lossless.npz")
        for number, (pixels, label) in enumerate(zip(packed["x"], packed["y"], strict=True)):
            place = new / "pictures" / str(packed["labels"][label])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:03}.png")
        with (shared / "vww/labels.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                place = new / "people" / ("person" if row["person"] == "1" else "none")
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(shared / "vww/images" / row["file"], place)
        (new / "stream").mkdir()
        shutil.copy(shared / "sww/short_wav_easy10s.wav", new / "stream")
        times = new / "stream/short_wav_easy10s_ww_windows.json"
        times.write_text(json.dumps(SPANS), encoding="utf-8")
        crowd(new / "words", new / "crowd")
        anomaly_toycar.write(shared / "toycar", new / "cars")


def crowd(words: Path, folder: Path) -> None:
    """Write the clips of twelve words one after the other: a wave in which nobody says *Marvin*.

    Unless somebody does in a clip of `unknown` words, which nobody has listened to.
    """
    files = sorted(words.rglob("*.wav"), key=lambda path: path.name)
    waves = [soundfile.read(path, dtype="int16") for path in files]
    folder.mkdir()
    soundfile.write(folder / "clips.wav", np.concatenate([w for w, _ in waves]), waves[0][1])
    (folder / "clips_ww_windows.json").write_text("[]", encoding="utf-8")


def same_integers(network: FileNetwork, content: bytes) -> int:
    """Return how many of the random inputs give the very integers of TFLite Micro."""
    from tflite_micro.python.tflite_micro import runtime

    whole = parse_tflite(content)
    own = network.graph(channels_first(whole.input_shape))
    shape = (INPUTS, *own.input_shape[1:])
    x = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(0))
    given = x.to(torch.int8)
    made: Any = IntegerNetwork(own)(given)
    if own.outputs != whole.outputs:  # a softmax at the file's end
        last = dataclasses.replace(whole, ops=whole.ops[-1:], inputs=own.outputs)
        made = IntegerNetwork(last)(made)
    interpreter = runtime.Interpreter.from_bytes(content)
    equal = 0
    for sample, output in zip(given, made, strict=True):
        interpreter.set_input(sample[None].numpy(), 0)
        interpreter.invoke()
        equal += np.array_equal(output[None].numpy(), interpreter.get_output(0))
    return equal


def measured(name: str, shared: Path, data: Path, runs: Path) -> dict[str, Any]:
    """Return what a file reaches, imported, and what it costs."""
    file, where, _ = FILES[name]
    out = runs / Path(file).name
    shutil.rmtree(out, ignore_errors=True)
    made = zoo.import_tflite(shared / f"{file}.tflite", out)
    content = (out / FILE).read_bytes()
    network = zoo.load(out)
    assert isinstance(network, FileNetwork)
    compiled = compile_graph(parse_tflite(content), NPU)
    return {
        "recipe": made.recipe.name,
        "stated": dict(made.metrics["published"]),
        "measured": zoo.evaluate(out, data / where),
        **({"crowd": zoo.evaluate(out, data / "crowd")} if where == "stream" else {}),
        "integers_equal": same_integers(network, content),
        "bytes": len(content),
        "u55_128_cycles": compiled.cycles,
        "cpu_ops": len(compiled.cpu_ops),
    }


def figures(found: Mapping[str, Any]) -> list[str]:
    """Return what is shown of a measurement: in integers, and of the same weights in float."""
    keys = [key for key in ("accuracy", "pooled_auc", "missed") if key in found]
    key = keys[0]
    if key == "missed":
        words = f"{found['words'] - found['missed']} of {found['words']} words"
        return [f"{words}, {found['false_alarms']} false", "-"]
    shown = [found[key], found.get("float", {}).get(key)]
    return ["-" if value is None else f"{value:.4f}" for value in shown]


def main() -> None:
    """Measure, store, and fail if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="files and data")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "published")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lay_out(args.shared, args.runs / "data")
    results = {name: measured(name, args.shared, args.runs / "data", args.runs) for name in FILES}
    rows = [["file", "int8", "in float", "equal to TFLite Micro", "bytes", "U55-128 cycles"]]
    for name, found in results.items():
        same = f"{found['integers_equal']} of {INPUTS}"
        costs = [f"{found['bytes']:,}", f"{found['u55_128_cycles']:,}"]
        rows.append([name, *figures(found["measured"]), same, *costs])
    report("published_tinyml", 1, {"inputs": INPUTS, "files": results}, rows)
    for name, (_, _, goal) in FILES.items():
        if results[name]["integers_equal"] != INPUTS or results[name]["cpu_ops"]:
            raise SystemExit(f"{name}: not the integers of TFLite Micro, or not all on the NPU")
        if goal is None:
            continue
        key, value, below, above = goal
        if not value - below <= results[name]["measured"][key] <= value + above:
            raise SystemExit(f"{name}: {key} {results[name]['measured'][key]}; goal {value}")


if __name__ == "__main__":
    main()
