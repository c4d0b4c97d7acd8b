"""Sparse adapters against peft's SHiRA: the same merged weights, files there and back."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from zoo.adapters import SparseAdapter, Switcher, fuse
from zoo.adapters.peft_bridge import from_peft, to_peft
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError

peft = pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def _peft_warns() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled")
        warnings.filterwarnings("ignore", ".*base_model.*|.*Unable to fetch.*|.*config.*")
        yield


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 24)).to(dtype).eval()


def pushed(folder: Path, dtype: torch.dtype) -> tuple[Any, Path]:
    """Return a peft model with two trained-looking adapters, and the folder of the first."""
    config = {"r": 2, "target_modules": ["0", "2"], "init_weights": False}
    model = peft.get_peft_model(network(dtype), peft.ShiraConfig(**config, random_seed=1), "one")
    model.add_adapter("two", peft.ShiraConfig(**config, random_seed=2))
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_weights_are_pefts_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    _, folder = pushed(tmp_path, dtype)
    base = network(dtype)
    switcher = Switcher(base)
    for name in ("one", "two"):
        switcher.register(name, from_peft(folder / name, network(dtype)))
    for names in (["one"], ["two"], ["one", "two"]):
        model = peft.PeftModel.from_pretrained(network(dtype), folder / "one", "one")
        model.load_adapter(folder / "two", "two")
        model.base_model.set_adapter(names)
        model.merge_adapter(names)
        switcher.activate(dict.fromkeys(names, 1.0))
        for layer in ("0", "2"):
            theirs = model.get_submodule(f"base_model.model.{layer}").get_base_layer().weight
            ours = base.get_submodule(layer).weight
            if len(names) == 1:
                assert torch.equal(ours, theirs)
            else:  # peft rounds to the base's type after each adapter, of magnitude up to 4
                apart = 4 * torch.finfo(dtype).eps
                torch.testing.assert_close(ours, theirs, rtol=0, atol=apart)
            assert not torch.equal(ours, network(dtype).get_submodule(layer).weight)


def test_there_and_back_is_exact(tmp_path: Path) -> None:
    _, folder = pushed(tmp_path / "theirs", torch.float32)
    base = network()
    adapter = from_peft(folder / "one", base)
    to_peft(adapter, tmp_path / "ours", base)
    theirs, ours = (
        safetensors.torch.load_file(path / "adapter_model.safetensors")
        for path in (folder / "one", tmp_path / "ours")
    )
    assert set(theirs) == set(ours)
    for name in theirs:
        assert torch.equal(theirs[name], ours[name])


def test_stock_peft_loads_what_is_exported(tmp_path: Path) -> None:
    base = network()
    given = {
        "0.weight": ([0, 5, 959], [0.5, -0.25, 0.125]),
        "2.weight": (range(100), torch.randn(100)),
    }
    adapter = SparseAdapter.from_tensors(given, base, metadata={"base": {"repo": "me/base"}})
    folder = to_peft(adapter, tmp_path / "out", base)
    wrapped = peft.PeftModel.from_pretrained(network(), folder).eval()
    x = torch.randn(7, 24)
    expected = network()
    with torch.no_grad():
        for name, delta in adapter.deltas().items():
            expected.get_parameter(name).view(-1)[adapter.tensors[name].indices] += delta
        assert torch.equal(wrapped.merge_and_unload()(x), expected(x))
    again = from_peft(folder, base)
    for name, tensor in adapter.tensors.items():
        assert torch.equal(again.tensors[name].indices, tensor.indices)
        assert torch.equal(again.tensors[name].values, tensor.values)
    assert again.metadata["base"]["repo"] == "me/base"


def test_names_that_end_like_others_do_not_catch_them(tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"0": nn.Linear(8, 8), "x": nn.ModuleDict({"0": nn.Linear(8, 8)})})

    adapter = SparseAdapter.from_tensors({"0.weight": ([3], [1.0])}, build())
    folder = to_peft(adapter, tmp_path / "out", build())
    wrapped = peft.PeftModel.from_pretrained(build(), folder)
    assert sum("shira_weight" in name for name, _ in wrapped.named_parameters()) == 1


def test_what_peft_cannot_hold_is_refused(tmp_path: Path) -> None:
    base = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Linear(4, 4))
    for name, message in (("0.weight", "Conv2d"), ("1.bias", "bias")):
        adapter = SparseAdapter.from_tensors({name: ([0], [1.0])}, base)
        with pytest.raises(MismatchError, match=message):
            to_peft(adapter, tmp_path / "out", base)
    full = SparseAdapter.from_tensors({"1.weight": (range(15), torch.randn(15))}, base)
    to_peft(full, tmp_path / "out", base)
    base = nn.Linear(3, 3)
    full = SparseAdapter.from_tensors({"weight": (range(9), torch.randn(9))}, base)
    with pytest.raises(MismatchError):
        to_peft(full, tmp_path / "other", base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.add_(torch.tensor([[1000], [0]])), "outside"),
        (lambda i: i[1, 0].fill_(24), "outside"),
        (lambda i: i[0, 0].fill_(-1), "outside"),
        (lambda i: i[:, 1].copy_(i[:, 0]), "given twice"),
    ],
    ids=["all rows", "one column", "negative", "duplicate"],
)
def test_hostile_indices_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    """peft itself loads the first two and writes outside of the weight, or nowhere."""
    _, folder = pushed(tmp_path, torch.float32)
    file = folder / "one" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors["base_model.model.0.shira_indices"])
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(UnsafeFileError, match=message):
        from_peft(folder / "one", network())


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="adapter_config"):
        from_peft(tmp_path, network())
    _, folder = pushed(tmp_path, torch.float32)
    file, config = folder / "one" / "adapter_model.safetensors", folder / "one/adapter_config.json"
    with pytest.raises(MismatchError, match="lacks"):
        from_peft(folder / "one", nn.Linear(2, 2))
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file(tensors | {"base_model.model.0.bias": torch.zeros(2)}, file)
    with pytest.raises(MismatchError, match="no sparse adapter can have"):
        from_peft(folder / "one", network())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UnsafeFileError):
        from_peft(folder / "one", network())
    record = json.loads(config.read_text())
    config.write_text(json.dumps({**record, "peft_type": "LORA"}))
    with pytest.raises(MismatchError, match="LORA"):
        from_peft(folder / "one", network())


def test_ties_is_that_of_peft() -> None:
    from peft.utils.merge_utils import ties

    torch.manual_seed(0)
    base = {"w": torch.zeros(30, 40)}
    adapters, dense = {}, []
    weights = dict.fromkeys("abc", 1.0)  # with others peft elects signs by unweighted changes
    for name in weights:
        where = torch.randperm(1200)[:500].sort().values
        values = torch.randn(500)
        adapters[name] = SparseAdapter.from_tensors({"w": (where, values)}, base)
        dense.append(torch.zeros(1200).index_copy(0, where, values).view(30, 40))
    warnings.filterwarnings("ignore", "The density 1.0")
    theirs = ties(dense, torch.tensor(list(weights.values())), density=1.0)
    fused = fuse(adapters, base, weights, "ties").tensors["w"]
    ours = torch.zeros(1200).index_copy(0, fused.indices, fused.values).view(30, 40)
    torch.testing.assert_close(ours, theirs)
