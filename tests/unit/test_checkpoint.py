"""Checkpoints: a folder is read only if it is whole, the one described, and harmless."""

import json
import shutil

import pytest
import safetensors.torch
import torch

import zoo
from zoo.cards.model import render
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError, UnsafeFileError
from zoo.files import sha256
from zoo.registry import checkpoint as module
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build
from zoo.tasks import task_of

RECIPE = find("sesr-m3-x2")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build(RECIPE)


@pytest.fixture
def checkpoint(model, tmp_path):
    metrics = {"held_out": {"psnr_y_db": 30.0, "images": 2}}
    return Checkpoint.write(
        tmp_path / "c", RECIPE, model.state_dict(), metrics, license="CC-BY-4.0"
    )


def edit(checkpoint, change):
    """Change config.json; `change` gets the parsed content."""
    path = checkpoint.path / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_what_is_written_is_read_and_loaded_to_the_bit(checkpoint, model):
    again = Checkpoint.read(checkpoint.path)
    assert again == checkpoint
    assert (again.recipe, again.tag, again.license) == (RECIPE, "photos", "CC-BY-4.0")
    assert again.metrics["held_out"]["psnr_y_db"] == 30
    loaded = again.load()
    assert not loaded.training
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    y = torch.rand(1, 1, 9, 8)
    torch.testing.assert_close(loaded(y), model(y), atol=0, rtol=0)
    assert sorted(f.name for f in checkpoint.path.iterdir()) == [
        "LICENSE",
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]


def test_the_config_has_everything_needed_to_use_the_weights(checkpoint):
    config = json.loads((checkpoint.path / "config.json").read_text())
    weights = checkpoint.path / "model.safetensors"
    assert config["format_version"] == 1
    assert config["graph"] == "deployed"
    assert config["recipe"] == RECIPE.to_json()
    assert config["files"] == {
        "model.safetensors": {"sha256": sha256(weights), "bytes": weights.stat().st_size}
    }


@pytest.mark.parametrize("place", [0, 8, 500, -1])
def test_one_changed_byte_is_refused_unopened(checkpoint, place, monkeypatch):
    path = checkpoint.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(safetensors.torch, "load_file", lambda path: pytest.fail("opened"))
    with pytest.raises(
        UnsafeFileError, match=r"model\.safetensors is corrupt or was tampered with"
    ):
        checkpoint.load()


def test_a_truncated_file_is_refused(checkpoint):
    path = checkpoint.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnsafeFileError, match="corrupt or was tampered"):
        checkpoint.load()


def test_a_file_with_the_right_hash_that_is_no_safetensors_is_refused(checkpoint):
    path = checkpoint.path / "model.safetensors"
    path.write_bytes(b"\x80\x04N.")  # a pickle
    digest = sha256(path)
    edit(checkpoint, lambda config: config["files"]["model.safetensors"].update(sha256=digest))
    with pytest.raises(UnsafeFileError, match="not a valid safetensors file"):
        Checkpoint.read(checkpoint.path).load()


def test_missing_pieces_are_named(checkpoint, tmp_path):
    (checkpoint.path / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match=r"model\.safetensors is missing"):
        Checkpoint.read(checkpoint.path).load()
    (checkpoint.path / "config.json").unlink()
    with pytest.raises(MissingWeightsError, match=r"no config\.json in it"):
        Checkpoint.read(checkpoint.path)
    with pytest.raises(MissingWeightsError, match="no such folder"):
        Checkpoint.read(tmp_path / "gone")


def test_metrics_are_optional(checkpoint):
    (checkpoint.path / "metrics.json").unlink()
    assert Checkpoint.read(checkpoint.path).metrics == {}


@pytest.mark.parametrize("version", [2, 0, -1, "1", None, True, 1.0])
def test_another_format_is_refused(checkpoint, version):
    edit(checkpoint, lambda config: config.update(format_version=version))
    with pytest.raises(MismatchError, match=f"format_version {version!r}; this zoo reads 1 to 1"):
        Checkpoint.read(checkpoint.path)


@pytest.mark.parametrize("key", ["recipe", "tag", "license", "data", "files"])
def test_a_field_that_is_missing_or_of_another_type_is_named(checkpoint, key):
    for change in (lambda config: config.pop(key), lambda config: config.update({key: 7})):
        edit(checkpoint, change)
        with pytest.raises(MismatchError, match=rf"config\.json: '{key}' is missing or no"):
            Checkpoint.read(checkpoint.path)


@pytest.mark.parametrize(
    "files",
    [{}, {"model.safetensors": "abc"}, {"model.safetensors": {"bytes": 1}}],
    ids=["none", "text", "no-hash"],
)
def test_weights_without_a_hash_are_refused(checkpoint, files):
    edit(checkpoint, lambda config: config.update(files=files))
    with pytest.raises(MismatchError, match=r"sha256 and bytes of model\.safetensors are missing"):
        Checkpoint.read(checkpoint.path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, "\udc80"], ids=["empty", "half", "list", "deep", "bytes"]
)
def test_a_config_that_is_no_json_object_is_refused(checkpoint, text):
    path = checkpoint.path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(MismatchError, match=r"config\.json (cannot be read as JSON|holds list)"):
        Checkpoint.read(checkpoint.path)


@pytest.mark.parametrize(
    "named",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        "zoo.files:sha256",
        "zoo.modelsevil:Net",
        "torch.nn:Linear",
        "zoo.models.sesr:torch",
        "zoo.models.sesr:Tensor",
        "zoo.models.blocks:identity_kernel",
    ],
)
def test_a_class_that_is_no_network_of_the_zoo_is_refused(checkpoint, named, monkeypatch):
    edit(checkpoint, lambda config: config["recipe"].update(model=named, args={"command": "x"}))
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("executed"))
    with pytest.raises(UnsafeFileError, match=named):
        Checkpoint.read(checkpoint.path).load()


@pytest.mark.parametrize(
    "named", ["zoo.models.gone:Net", "zoo.models.sesr:Gone", "zoo.models..a:B"]
)
def test_a_network_that_does_not_exist_is_named(checkpoint, named):
    edit(checkpoint, lambda config: config["recipe"].update(model=named))
    with pytest.raises(MismatchError, match=named):
        Checkpoint.read(checkpoint.path).load()


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"channels": 16, "blocks": 3, "scale": 2, "depth": 1},
        {"channels": -1, "blocks": 3, "scale": 2},
        {"channels": "16", "blocks": 3, "scale": 2},
        {"channels": 16, "blocks": 3, "scale": 10**12},
    ],
    ids=["none", "unknown", "negative", "text", "gigantic"],
)
def test_arguments_that_do_not_fit_are_shown(checkpoint, args):
    edit(checkpoint, lambda config: config["recipe"].update(args=args))
    with pytest.raises(MismatchError, match=r"SESR of 'sesr-m3-x2' cannot be built with"):
        Checkpoint.read(checkpoint.path).load()


@pytest.mark.parametrize("subtask", ["gone", "images", "a.b", "../x", "", "os"])
def test_a_task_that_is_none_is_refused(checkpoint, subtask):
    edit(checkpoint, lambda config: config["recipe"].update(subtask=subtask))
    with pytest.raises(UnknownNameError, match=f"for the task '{subtask}'"):
        task_of(Checkpoint.read(checkpoint.path).recipe)


def changed(tensors, kind):
    tensors = dict(tensors)
    if kind == "extra":
        tensors["extra.weight"] = torch.zeros(1)
    elif kind == "missing":
        del tensors["last.bias"]
    else:
        tensors["last.bias"] = torch.zeros(9)
    return tensors


@pytest.mark.parametrize(
    ("kind", "named"), [("extra", "extra.weight"), ("missing", "last.bias"), ("shape", "last.bias")]
)
def test_tensors_that_do_not_fit_are_named(model, tmp_path, kind, named):
    checkpoint = Checkpoint.write(tmp_path, RECIPE, changed(model.state_dict(), kind), {})
    with pytest.raises(MismatchError, match=f"do not fit: .*{named}") as caught:
        checkpoint.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_a_crash_between_the_writes_leaves_no_half_checkpoint(
    checkpoint, tmp_path, monkeypatch, moment, old
):
    path = checkpoint.path if old else tmp_path / "new"
    writes = []

    def crashing(write):
        def wrapped(*args):
            if len(writes) == moment:
                raise KeyboardInterrupt
            writes.append(args)
            write(*args)

        return wrapped

    for name in ("write_bytes", "write_json"):
        monkeypatch.setattr(module, name, crashing(getattr(module, name)))
    tensors = {name: torch.zeros_like(t) for name, t in checkpoint.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        Checkpoint.write(path, RECIPE, tensors, {})
    with pytest.raises(MissingWeightsError):
        Checkpoint.read(path)
    assert not path.exists() or not any(f.name.startswith(".") for f in path.iterdir())
    monkeypatch.undo()
    assert not Checkpoint.write(path, RECIPE, tensors, {}).load().last.weight.any()


def test_evaluations_are_recorded_beside_each_other(checkpoint):
    checkpoint.record("a", {"psnr_y_db": 1.0}).record("b", {"psnr_y_db": 2.0})
    again = Checkpoint.read(checkpoint.path)
    assert again.metrics["evaluations"] == {"a": {"psnr_y_db": 1.0}, "b": {"psnr_y_db": 2.0}}
    assert again.metrics["held_out"] == checkpoint.metrics["held_out"]
    again.load()


def test_a_card_lies_beside_the_weights(model, tmp_path):
    Checkpoint.write(tmp_path, RECIPE, model.state_dict(), {}, tag="mine", card="# ü\n")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# ü\n"
    assert Checkpoint.read(tmp_path).tag == "mine"


def test_the_same_weights_give_the_same_file(model, tmp_path):
    digests = {
        Checkpoint.write(tmp_path / str(number), RECIPE, model.state_dict(), {}).config["files"][
            "model.safetensors"
        ]["sha256"]
        for number in range(8)
    }
    assert len(digests) == 1


def test_other_weights_under_the_tag_of_shipped_ones_have_a_label_of_their_own(tmp_path):
    shipped = zoo.checkpoint("sesr-m3-x2")
    assert shipped.label == f"sesr-m3-x2.{shipped.tag}"
    shutil.copytree(shipped.path, tmp_path / "copy")
    assert Checkpoint.read(tmp_path / "copy").label == shipped.label
    state = {name: value + 0.1 for name, value in shipped.state_dict().items()}
    own = Checkpoint.write(
        tmp_path / "own", shipped.recipe, state, {}, license="MIT", data={"source": "mine"}
    )
    assert own.tag == shipped.tag
    assert own.label == "sesr-m3-x2.own"
    file = zoo.export(own.path, tmp_path / "own.onnx", input_shape=(1, 1, 8, 8))
    import onnx

    facts = {item.key: item.value for item in onnx.load(file.path).metadata_props}
    assert facts["recipe"] == "sesr-m3-x2.own"
    card = render(own)
    assert f'"sesr-m3-x2.{shipped.tag}"' not in card
    assert '"./sesr-m3-x2"' in card
