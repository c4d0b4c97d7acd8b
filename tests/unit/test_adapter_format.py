"""`SparseAdapter`: what it accepts, refuses, and converts."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from zoo.adapters import SparseAdapter
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Conv2d(4, 4, 3), nn.Embedding(10, 6))


def test_indices_are_sorted_with_their_values(model: nn.Module) -> None:
    adapter = SparseAdapter.from_tensors({"0.weight": ([5, 0, 127], [1.0, 2.0, 3.0])}, model)
    tensor = adapter.tensors["0.weight"]
    assert tensor.indices.tolist() == [0, 5, 127]
    assert tensor.values.tolist() == [2.0, 1.0, 3.0]
    assert (adapter.nnz, tensor.numel, adapter.density) == (3, 128, 3 / 128)
    assert "0.weight" in adapter.tensors
    adapter.check(model)
    adapter.check(model.state_dict())


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([0, 0], [1.0, 2.0], "given twice"),
        ([128], [1.0], "outside"),
        ([-1], [1.0], "outside"),
        ([1, 2], [1.0], "as many"),
        ([1.0], [1.0], "expected integers"),
        ([1], [float("nan")], "finite"),
        ([1], [float("inf")], "finite"),
        ([1], [1], "floating point"),
        ([[1]], [[1.0]], "flat"),
    ],
)
def test_what_is_no_sparse_change_is_refused(
    model: nn.Module, indices: list[int], values: list[float], message: str
) -> None:
    with pytest.raises(MismatchError, match=message):
        SparseAdapter.from_tensors({"0.weight": (indices, values)}, model)


def test_a_tensor_that_the_model_lacks_is_named_with_its_like(model: nn.Module) -> None:
    with pytest.raises(MismatchError, match=r"no tensor 'model\.0\.weight'; it has 0\.weight"):
        SparseAdapter.from_tensors({"model.0.weight": ([0], [1.0])}, model)
    with pytest.raises(MismatchError, match="meta device"):
        SparseAdapter.from_tensors({"weight": ([0], [1.0])}, nn.Linear(2, 2, device="meta"))
    with pytest.raises(MismatchError, match="int64"):
        SparseAdapter.from_tensors({"x": ([0], [1.0])}, {"x": torch.zeros(3, dtype=torch.int64)})


def test_another_base_is_refused(model: nn.Module) -> None:
    adapter = SparseAdapter.from_tensors({"0.weight": ([7, 9], [1.0, 2.0])}, model)
    weight = model.state_dict()["0.weight"]
    off = weight.clone()
    off.view(-1)[9] = torch.nextafter(off.view(-1)[9], torch.tensor(9.0))
    negative = weight.clone()
    negative.view(-1)[9] *= -1
    for wrong, message in (
        (off, "differs from the base"),
        (negative, "differs from the base"),
        (weight.reshape(8, 16), "shape"),
        (weight.half(), "float16"),
    ):
        with pytest.raises(MismatchError, match=message):
            adapter.check({"0.weight": wrong})
    with pytest.raises(MismatchError, match="no tensor"):
        adapter.check({"1.weight": weight})
    elsewhere = weight.clone()
    elsewhere.view(-1)[8] += 1  # not a position of the adapter
    adapter.check({"0.weight": elsewhere})


def test_the_sign_of_zero_and_nan_payloads_count() -> None:
    bits = torch.tensor([0x7FC00001, 0], dtype=torch.int32)
    base = {"x": bits.view(torch.float32)}
    adapter = SparseAdapter.from_tensors({"x": ([0, 1], [1.0, 1.0])}, base)
    adapter.check({"x": bits.clone().view(torch.float32)})
    for other in (torch.tensor([0x7FC00002, 0]), torch.tensor([0x7FC00001, -(2**31)])):
        with pytest.raises(MismatchError):
            adapter.check({"x": other.to(torch.int32).view(torch.float32)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_modes_convert_into_each_other(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base = {"x": torch.randn(50).to(dtype)}
    delta = SparseAdapter.from_tensors({"x": (range(40), torch.randn(40) * 0.01)}, base)
    over = delta.to_mode("overwrite", base)
    expected = (base["x"][:40].float() + delta.tensors["x"].values).to(dtype)
    assert torch.equal(over.tensors["x"].values, expected)
    back = over.to_mode("delta", base).to_mode("overwrite", base)
    assert torch.equal(back.tensors["x"].values, expected)
    assert over.deltas(base)["x"].dtype == torch.float32
    with pytest.raises(MismatchError, match="needs its base"):
        over.deltas()
    largest = {"x": torch.full((1,), torch.finfo(dtype).max, dtype=dtype)}
    doubled = SparseAdapter.from_tensors({"x": ([0], largest["x"].float())}, largest)
    with pytest.raises(MismatchError, match="range"):
        doubled.to_mode("overwrite", largest)


def test_deltas_can_be_rounded(model: nn.Module) -> None:
    adapter = SparseAdapter.from_tensors({"0.weight": ([7], [1 + 2**-12])}, model)
    assert adapter.cast(torch.bfloat16).tensors["0.weight"].values.tolist() == [1.0]
    with pytest.raises(MismatchError, match="do not fit"):
        SparseAdapter.from_tensors({"0.weight": ([7], [1e30])}, model).cast(torch.float16)


def test_a_shared_mask_is_stored_once(model: nn.Module, tmp_path: Path) -> None:
    adapters = [
        SparseAdapter.from_tensors({"0.weight": (range(0, 128, 3), torch.randn(43))}, model)
        for _ in range(2)
    ]
    for i, adapter in enumerate(adapters):
        adapter.save(tmp_path / f"{i}.safetensors", shared_mask=True)
    masks = list(tmp_path.glob("mask-*.safetensors"))
    assert len(masks) == 1
    found = SparseAdapter.load(tmp_path / "1.safetensors")
    assert torch.equal(found.tensors["0.weight"].values, adapters[1].tensors["0.weight"].values)
    masks[0].unlink()
    with pytest.raises(MissingWeightsError, match="mask-"):
        SparseAdapter.load(tmp_path / "1.safetensors")
    other = SparseAdapter.from_tensors({"0.weight": (range(1, 128, 3), torch.randn(43))}, model)
    wrong = other.save(tmp_path / "other" / "x.safetensors", shared_mask=True)
    next(wrong.parent.glob("mask-*")).rename(masks[0])
    with pytest.raises(UnsafeFileError):
        SparseAdapter.load(tmp_path / "1.safetensors")


def test_what_is_no_adapter_file_is_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError):
        SparseAdapter.load(tmp_path / "none.safetensors")
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, plain)
    with pytest.raises(UnsafeFileError, match="is not a sparse adapter"):
        SparseAdapter.load(plain)
    path = SparseAdapter.from_tensors({"0.weight": ([7], [1.0])}, model).save(tmp_path)
    assert path.name == "sparse_adapter.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["sparse_adapter"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    record["version"] = 99
    safetensors.torch.save_file(tensors, path, {"sparse_adapter": json.dumps(record)})
    with pytest.raises(MismatchError, match=r"git -C .* pull"):
        SparseAdapter.load(path)


def test_metadata_must_be_json(model: nn.Module, tmp_path: Path) -> None:
    for bad in ({"x": float("nan")}, {"x": object()}):
        adapter = SparseAdapter.from_tensors({"0.weight": ([7], [1.0])}, model, metadata=bad)
        with pytest.raises(MismatchError, match="JSON"):
            adapter.save(tmp_path)
    assert not list(tmp_path.iterdir())
