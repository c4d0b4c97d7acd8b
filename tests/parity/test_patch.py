"""Adapters as patches of an int8 file: the same bytes as a file of its own, in every runtime."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.adapters import SparseAdapter
from zoo.cli import main
from zoo.cost.switching import switch_cost
from zoo.cost.target import target
from zoo.deploy.family import Family, label_of, saturated
from zoo.deploy.patch import Patch, PatchedFile
from zoo.deploy.tflite_read import parse_tflite
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.models.looks import Looks
from zoo.quantization.int8.post_training import quantize
from zoo.registry import catalogue
from zoo.registry.checkpoint import Checkpoint, build
from zoo.runtime.integer import IntegerNetwork

SHAPE = (1, 6, 16, 24)
MIX = {"oil": 0.5, "pencil": 1.0}


def adapters_of(module: torch.nn.Module) -> dict[str, SparseAdapter]:
    """Three random ones, which change weights, biases and slopes."""
    found = {}
    for seed, name in enumerate(("night", "oil", "pencil")):
        dice = torch.Generator().manual_seed(seed)
        changes = {}
        for path, value in module.named_parameters():
            count = max(1, value.numel() // 4)
            where = torch.randperm(value.numel(), generator=dice)[:count]
            changes[path] = (where, 0.2 * torch.randn(count, generator=dice))
        found[name] = SparseAdapter.from_tensors(changes, module)
    return found


@pytest.fixture(scope="module")
def family() -> Family:
    torch.manual_seed(0)
    module = Looks(channels=8, blocks=2).eval()
    inputs = [torch.rand(2, 6, 24, 16), torch.rand(2, 6, 24, 16)]
    return Family(module, adapters_of(module), inputs, SHAPE)


def test_a_patch_makes_the_file_of_that_adapter_and_goes_without_trace(family: Family) -> None:
    memory = bytearray(family.content)
    file = PatchedFile(memory)
    for strengths in ({"oil": 1.0}, {"pencil": 0.3}, MIX, {"night": 1.0, "oil": 1.0}):
        patch = family.patch(strengths)
        file.apply(patch)
        assert memory == family.file(strengths) != family.content
        assert file.restore() == patch.written_bytes
        assert memory == family.content


def test_a_switch_takes_the_other_out_first(family: Family) -> None:
    file = PatchedFile(family.content)
    oil, night = family.patch({"oil": 1.0}), family.patch({"night": 1.0})
    assert file.apply(oil) == oil.written_bytes
    assert file.apply(night) == oil.written_bytes + night.written_bytes
    assert file.content == family.file({"night": 1.0})
    file.restore()
    assert file.content == family.content
    assert file.restore() == 0


def test_only_the_adapters_positions_change(family: Family) -> None:
    patch, adapter = family.patch({"oil": 1.0}), family.adapters["oil"]
    assert 0.8 * adapter.nnz < patch.count <= adapter.nnz  # some round to the same integer
    kinds = {family.base.tensors[name].kind for name in patch.changes}
    assert kinds == {"weight", "bias", "slope"}
    weight = next(n for n, t in family.base.tensors.items() if t.source == "body.0.weight")
    # The file's order is (O, kH, kW, I); the adapter's that of PyTorch.
    places = torch.arange(8 * 8 * 9).reshape(8, 8, 3, 3).permute(0, 2, 3, 1).reshape(-1)
    moved = set(places[patch.changes[weight].where].tolist())
    assert moved <= set(adapter.tensors["body.0.weight"].indices.tolist())


def test_every_runtime_computes_the_same_with_a_patch(
    family: Family, judges: dict[str, Callable[..., Any]]
) -> None:
    file = PatchedFile(family.content)
    x = torch.randint(-128, 128, (2, 16, 24, 6), dtype=torch.int8)
    base = IntegerNetwork(parse_tflite(family.content))(x)
    for strengths in ({"pencil": 1.0}, MIX):
        file.apply(family.patch(strengths))
        content = bytes(file.content)
        ours = IntegerNetwork(parse_tflite(content))(x)
        assert not torch.equal(ours, base)
        for judge in judges.values():
            assert torch.equal(torch.from_numpy(judge(content)(x)), ours)


def test_scales_hold_every_adapter(family: Family) -> None:
    """One that is larger than the base would be cut off in the base's own scales."""
    name = next(n for n, t in family.base.tensors.items() if t.source == "last.weight")
    scales = np.array(family.base.tensors[name].quantization.scales)  # type: ignore[union-attr]
    for strengths in ({"night": 1.0}, {"oil": 1.0}, {"pencil": 1.0}):
        values = family.floating(family.state(strengths), SHAPE).values[name]
        assert np.all(np.abs(values).max(axis=(1, 2, 3)) <= 127.5 * scales)
        assert family.fidelity(strengths).snr_db > 20
    alone = quantize(family.live, family.calibration, SHAPE)
    own = np.array(alone.tensors[name].quantization.scales)  # type: ignore[union-attr]
    assert np.all(scales >= own)
    assert np.any(scales > own)


def test_what_the_last_clamp_cuts_off_takes_no_steps(family: Family) -> None:
    graph = family.floating(family.state({}), SHAPE)
    wide = {name: (-3.0, 3.0) for name, t in graph.tensors.items() if not t.is_parameter}
    narrow = {name for name, limits in saturated(graph, wide).items() if limits != (-3.0, 3.0)}
    moves = {"reshape", "transpose", "depth_to_space"}
    makers = {graph.producers[name].kind for name in narrow}
    assert makers == {"add", *moves}
    assert graph.ops[-1].inputs[0] in narrow
    assert not narrow & {*graph.inputs, *graph.outputs}
    low, high = saturated(graph, wide)[graph.ops[-1].inputs[0]]
    assert (low, high) == (pytest.approx(-128 / 254), 0.5)


def test_a_file_says_what_is_in_it(family: Family, tmp_path: Path) -> None:
    patch = family.patch(MIX)
    again = Patch.load(patch.save(tmp_path / "mix.patch"))
    assert (again.label, again.strengths) == ("oil-0.5+pencil-1", MIX)
    assert again.serialized() == patch.serialized()
    assert label_of({"oil": 1.0}) == "oil"
    file = PatchedFile(family.content)
    file.apply(again)
    assert file.content == family.file(MIX)


def test_a_patch_for_another_file_is_refused(family: Family) -> None:
    patch = family.patch({"oil": 1.0})
    other = bytearray(family.content)
    other[-200] ^= 1
    before = bytes(other)
    with pytest.raises(MismatchError, match=r"another network or version.*zoo export"):
        PatchedFile(other).apply(patch)
    assert other == before
    file = PatchedFile(family.content)
    file.apply(patch)
    with pytest.raises(MismatchError, match="is for the file"):
        PatchedFile(bytes(file.content)).apply(patch)  # which is no longer the base


def test_a_damaged_patch_is_refused(family: Family, tmp_path: Path) -> None:
    content = family.patch({"oil": 1.0}).serialized()
    path = tmp_path / "bad.patch"
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises((UnsafeFileError, MismatchError)):
            PatchedFile(family.content).apply(Patch.load(path))
    path.write_bytes(content[:-9])
    with pytest.raises(UnsafeFileError, match=r"bad\.patch"):
        Patch.load(path)
    path.write_bytes(content.replace(b'version\\":1', b'version\\":9'))
    with pytest.raises(MismatchError, match="of version 9"):
        Patch.load(path)
    with pytest.raises(MissingWeightsError, match="expected a patch"):
        Patch.load(tmp_path / "none.patch")


def test_a_patch_of_what_is_not_there_writes_nothing(family: Family) -> None:
    good = family.patch({"oil": 1.0})
    name, change = next(iter(good.changes.items()))
    file = PatchedFile(family.content)
    for changes in ({**good.changes, "other": change}, {**good.changes, name: good.changes[
        next(n for n in good.changes if good.changes[n].numel != change.numel)]}):  # fmt: skip
        with pytest.raises(UnsafeFileError, match="the patch changes"):
            file.apply(Patch("x", {}, good.base_sha256, changes))
        assert file.content == family.content


def test_vela_leaves_nothing_to_the_cpu(family: Family) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    from zoo.deploy.vela import compile_file

    npu = Family(family.live, family.adapters, family.calibration, SHAPE, npu=True)
    file = PatchedFile(npu.content)
    assert not compile_file(npu.content, "ethos-u55-256").cpu_ops
    file.apply(npu.patch({"oil": 1.0}))
    assert file.content == npu.file({"oil": 1.0})
    assert not compile_file(bytes(file.content), "ethos-u55-256").cpu_ops


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = catalogue.find("looks").in_tiny_form()
    module = build(recipe).eval()
    Checkpoint.write(tmp_path / "run", recipe, dict(module.state_dict()), {})
    for name, adapter in adapters_of(module).items():
        adapter.save(tmp_path / "run" / "adapters" / name / "sparse_adapter.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    (tmp_path / "photos").mkdir()
    picture = Image.fromarray(pixels).resize((144, 96), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "photos" / "a.png")
    run, out = str(tmp_path / "run"), tmp_path / "out" / "looks.tflite"
    export = ["export", run, "--format", "tflite", "--data", str(tmp_path / "photos")]
    export += ["--shape", "1,6,32,32", "--adapters", f"{run}/adapters", "--out", str(out)]
    assert main(export) == 1
    assert "patches are of an int8 .tflite file" in capsys.readouterr().err
    assert main([*export, "--int8", "--npu", "--mix", "oil=0.5,night=1"]) == 0
    names = {path.name for path in out.parent.glob("*.patch")}
    mix = "night-1+oil-0.5.patch"
    assert names == {"night.patch", "oil.patch", "pencil.patch", mix}
    capsys.readouterr()
    result = str(tmp_path / "oil.tflite")
    assert main(["adapter", "patch", str(out), str(out.parent / mix), "--out", result,
                 "--json"]) == 0  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert facts["strengths"] == {"night": 1.0, "oil": 0.5}
    assert facts["switch"]["obtained"].startswith("estimated")
    changed = np.frombuffer(out.read_bytes(), np.uint8) != np.fromfile(result, np.uint8)
    assert 0 < changed.sum() <= facts["written_bytes"]
    refuse(capsys, ["export", *export[1:-1], str(tmp_path), "--int8"], "it is a folder; expected a")
    patch = out.parent / "oil.patch"
    base, bytes_of_patch = out.read_bytes(), patch.read_bytes()
    for lost, name in ((out, "base"), (patch, "patch")):
        words = ["adapter", "patch", str(out), str(patch), "--out", str(lost)]
        refuse(capsys, words, f"is the {name} itself, which would be lost")
    assert (out.read_bytes(), patch.read_bytes()) == (base, bytes_of_patch)
    for words in ([str(patch), str(out)], [str(tmp_path / "photos/a.png"), str(patch)]):
        refuse(capsys, ["adapter", "patch", *words], f"{words[0]}: it does not begin like a TFLite")


def refuse(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_what_a_switch_costs_by_hand() -> None:
    cost = switch_cost(target("ethos-u55-256"), patch_bytes=20_000, integers=8_000,
                       weight_bytes=50_000)  # fmt: skip
    assert cost.read_us == pytest.approx(20_000 / 0.5e9 * 1e6)
    assert cost.write_us == pytest.approx(8_000 / 500e6 * 1e6)
    assert cost.switch_us == pytest.approx(56.0)
    assert cost.whole_us == pytest.approx(100.0)
    with pytest.raises(MismatchError, match="has no flash_bytes_per_s"):
        switch_cost(target("cpu"), patch_bytes=1, integers=1, weight_bytes=1)
