"""The data set of costs: the same bytes however it is made; what damages it is said in a line."""

import gzip
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import cost
from zoo.cli import main
from zoo.cost.networks import shards
from zoo.cost.networks.families import FAMILIES, MOST_MACS, MOST_WEIGHTS, network
from zoo.cost.networks.rows import described, graph_of, without_values
from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError, MissingExtraError, UnknownNameError

TARGETS = ["ethos-u55-128", "ethos-u65-512"]


def small(seed: int = 3, graphs: int = 2) -> shards.CostRecipe:
    pytest.importorskip("ethosu.vela")
    return replace(shards.recipe(TARGETS, seed), shard_graphs=graphs)


def alone(work, tasks):
    """An executor, last task first."""
    yield from ((place, work(*tasks[place])) for place in reversed(range(len(tasks))))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "data").iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "set"
    shards.write(small(), 5, folder, alone)
    return folder


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_every_draw_is_a_valid_network_of_its_size(seed: int, index: int) -> None:
    family, graph = network(seed, index)
    assert family in FAMILIES
    content = serialize_tflite(graph)  # checks every operator
    again = parse_tflite(content)
    assert [op.kind for op in again.ops] == [op.kind for op in graph.ops]
    assert again.macs == graph.macs <= MOST_MACS
    assert graph.parameters["weights"] <= MOST_WEIGHTS
    assert serialize_tflite(network(seed, index)[1]) == content


def test_families_take_turns_and_weights_vary() -> None:
    drawn = [network(0, index) for index in range(2 * len(FAMILIES))]
    assert set(Counter(name for name, _ in drawn).values()) == {2}
    zeros, levels = [], []
    for _, graph in drawn:
        first = next(v for v in graph.values.values() if v.dtype == np.int8 and v.size > 100)
        zeros.append(float((first == 0).mean()))
        levels.append(np.unique(first).size)
    assert max(zeros) > 0.5 > 0.1 > min(zeros)
    assert max(levels) > 100 > 20 > min(levels)


@pytest.mark.parametrize("index", range(len(FAMILIES)))
@pytest.mark.parametrize("name", TARGETS)
def test_a_row_costs_what_its_network_costs(name: str, index: int) -> None:
    _, graph = network(1, index)
    row = json.loads(json.dumps(described(graph)))
    target = cost.target(name)
    own = cost.estimate(graph, target, method="roofline")
    for other in (graph_of(row), without_values(graph)):
        found = cost.estimate(other, target, method="roofline")
        assert found.latency_ms == pytest.approx(own.latency_ms, rel=1e-9)
        assert found.macs == own.macs
        assert found.peak_activation_bytes == own.peak_activation_bytes


def test_labels_are_those_of_the_compiler_alone(made: Path) -> None:
    """One process for many files says what a process for each says."""
    from zoo.deploy.vela import compile_graph

    for row in shards.rows(made):
        assert [label["target"] for label in row["labels"]] == TARGETS
        for label in row["labels"]:
            report = compile_graph(network(3, row["id"])[1], label["target"])
            assert label["cycles"] == report.cycles == sum(label["operator_cycles"])
            assert 0 < max(label["operator_sram"]) <= label["sram_bytes"]
            assert label["latency_ms"] == pytest.approx(report.latency_ms)
            assert label["sram_bytes"] == report.peak_bytes["Sram"]
            assert label["encoded_bytes"] == report.encoded_bytes


def test_order_and_number_of_processes_do_not_show(made: Path, tmp_path: Path) -> None:
    assert shards.write(small(), 5, tmp_path / "two", shards.processes(2)) == 3
    assert contents(tmp_path / "two") == contents(made)


def test_a_killed_run_goes_on_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    code = (
        "from dataclasses import replace; from pathlib import Path\n"
        "from zoo.cost.networks import shards\n"
        f"given = replace(shards.recipe({TARGETS}, 3), shard_graphs=2)\n"
        f"shards.write(given, 5, Path({str(out)!r}), shards.processes(1))\n"
    )
    small()
    process = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 120
    while not (out / "data" / "train-00000.jsonl.gz").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "data" / "train-00000.jsonl.gz").exists()
    (out / "data" / ".train-00002-left").write_bytes(b"half of a shard")
    shards.write(small(), 5, out, alone)
    assert contents(out) == contents(made)


def test_a_whole_set_is_not_made_again_and_grows(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert shards.write(small(), 3, out, alone) == 2
    assert shards.write(small(), 3, out, alone) == 0
    assert shards.write(small(), 5, out, alone) == 2
    assert contents(out) == contents(made)


def test_a_damaged_shard_is_refused_and_made_again(made: Path, tmp_path: Path, caplog) -> None:
    out = tmp_path / "set"
    shards.write(small(), 3, out, alone)
    path = out / "data" / "train-00000.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MismatchError, match=r"train-00000.jsonl.gz is damaged .* run zoo cost"):
        list(shards.rows(out))
    shards.write(small(), 5, out, alone)
    assert "is damaged and is made again" in caplog.text
    assert contents(out) == contents(made)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"seed": 4}, "seed"), ({"targets": ("ethos-u55-128",)}, "targets"), ({"vela": "9"}, "vela")],
)
def test_another_set_is_not_mixed_in(made: Path, change: dict, field: str) -> None:
    with pytest.raises(MismatchError, match=rf"holds another data set: its {field} is"):
        shards.write(replace(small(), **change), 5, made, alone)


def test_wrong_words_are_one_line(made: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(UnknownNameError, match=r"stm32f746-216mhz-cmsisnn.*Vela compiles for"):
        shards.recipe(["stm32f746-216mhz-cmsisnn"], 0)
    with pytest.raises(MismatchError, match="0 graphs; expected 1 or more"):
        shards.write(small(), 0, tmp_path / "none", alone)
    (tmp_path / "mine.txt").write_text("a file")
    with pytest.raises(MismatchError, match="is not a data set of costs; expected a new folder"):
        shards.write(small(), 5, tmp_path, alone)
    with pytest.raises(MismatchError, match="is not a data set of costs; make one"):
        list(shards.rows(tmp_path))
    words = ["cost", "dataset", str(tmp_path / "a"), "--graphs", "-1"]
    assert main(words) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_newer_set_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / shards.RECIPE).write_text(json.dumps({"format_version": 3}))
    with pytest.raises(MismatchError, match="has format 3; this version of the zoo reads 2"):
        list(shards.rows(tmp_path))


def test_what_the_compiler_refuses_is_said_in_the_row(monkeypatch) -> None:
    from zoo.deploy.vela_many import Compiler

    def refuse(self: Compiler, what: str) -> dict:
        raise MismatchError(f"Vela crashed on {what}")

    monkeypatch.setattr(Compiler, "answer", refuse)
    row = json.loads(gzip.decompress(shards.shard(small(), 0, 1)))
    assert row["labels"] == []
    assert row["refused"] == [f"Vela crashed on network 0 of seed 3 for {t}" for t in TARGETS]


def test_a_compiler_that_hangs_or_dies_is_started_again() -> None:
    pytest.importorskip("ethosu.vela")
    from zoo.deploy.vela import configuration
    from zoo.deploy.vela_many import Compiler

    content = serialize_tflite(network(0, 8)[1])
    with Compiler(configuration("ethos-u55-128")[0]) as compiler:
        cycles = compiler.compiled(content, "a")["totalCycles"]
        with pytest.raises(MismatchError, match=r"Vela (crashed on|cannot compile) b"):
            compiler.compiled(b"no file", "b")
        assert compiler.compiled(content, "a")["totalCycles"] == cycles
        assert compiler._child is not None
        compiler._child.kill()
        with pytest.raises(MismatchError, match="Vela crashed on c"):
            compiler.compiled(content, "c")
        compiler.time_limit_s = 1e-4
        with pytest.raises(MismatchError, match=r"did not finish in 0\.0001 s"):
            compiler.compiled(content, "d")
        compiler.time_limit_s = 60
        assert compiler.compiled(content, "e")["totalCycles"] == cycles


def test_a_cluster_is_a_seam(made: Path, tmp_path: Path, monkeypatch) -> None:
    """Ray's four calls, by a stand-in that ends tasks in another order."""

    class Remote:
        def __init__(self, function):
            self.function = function

        def remote(self, *given):
            return lambda: self.function(*given)

    class Ray:
        init = staticmethod(lambda **_: None)
        remote = Remote
        wait = staticmethod(lambda waiting: (waiting[-1:], waiting[:-1]))
        get = staticmethod(lambda task: task())

    if shards.importlib.util.find_spec("ray") is None:
        with pytest.raises(MissingExtraError, match="ray"):
            shards.cluster()
    monkeypatch.setitem(sys.modules, "ray", Ray)
    monkeypatch.setattr(shards.importlib.util, "find_spec", lambda name: name)
    run = shards.cluster()
    monkeypatch.undo()
    shards.write(small(), 5, tmp_path / "set", run)
    assert contents(tmp_path / "set") == contents(made)


def test_datasets_reads_it_and_a_hub_takes_it(made: Path, tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    import yaml

    import zoo
    from zoo.cost.networks.about import write_card

    text = write_card(made, small())
    assert "5 random int8 networks" in text
    front = yaml.safe_load(text.split("---\n")[1])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    read = datasets.load_dataset(str(made), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features == datasets.Features._from_yaml_list(front["dataset_info"]["features"])
    assert json.loads(json.dumps(read[:][("id")])) == [0, 1, 2, 3, 4]
    assert [dict(row) for row in read] == list(shards.rows(made))
    monkeypatch.setenv("ZOO_HUB", "local")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "zoo"))
    assert "datasets/me/costs" in zoo.push(made, "datasets/me/costs")
