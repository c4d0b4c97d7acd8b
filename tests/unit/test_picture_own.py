"""A filter of one's own: named explicitly, made into pairs, refused where it does not fit."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

import zoo
from zoo.adapters import SparseAdapter, registry
from zoo.errors import MismatchError
from zoo.tasks import picture
from zoo.verbs.adapters import train_adapter

MINE = """
def dark(picture):
    return picture // 2

def wide(picture):
    return picture[:, :5]

def broken(picture):
    return 1 / 0

def leaves(picture):
    raise SystemExit(3)

def silent(picture):
    raise ValueError
"""


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (80, 76), (200, 100, number)).save(tmp_path / f"photos/{number}.png")
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def accelerated():
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def test_a_function_of_a_file_makes_pairs(photos, tmp_path):
    change = picture.from_file(f"{tmp_path}/mine.py:dark")
    pairs = picture.make_pairs(photos, change, tmp_path / "pairs")
    for number in range(2):
        after = Image.open(pairs / "after" / f"{number}.png")
        assert after.getpixel((3, 3)) == (100, 50, number // 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [("wide", r"makes uint8 \(76, 5, 3\) of 0.png; expected uint8 \(76, 80, 3\)"),
     ("broken", "fails on 0.png: ZeroDivisionError: division by zero"),
     ("leaves", "fails on 0.png: SystemExit: 3"),
     ("silent", "fails on 0.png: ValueError$"),
     ("light", "has no function 'light'")],
)  # fmt: skip
def test_a_function_that_does_not_fit_is_refused(photos, tmp_path, name, message):
    place = f"{tmp_path}/mine.py:{name}"
    with pytest.raises(MismatchError, match=message):  # either of the two
        picture.make_pairs(photos, picture.from_file(place), tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_only_a_named_file_is_executed(photos, tmp_path):
    for place in ("dark", "mine.py:dark", f"{tmp_path}/photos:dark"):
        with pytest.raises(MismatchError, match="expected a file and a function"):
            picture.from_file(place)
    (tmp_path / "bad.py").write_text("import nothing_like_it\n")
    with pytest.raises(MismatchError, match="cannot be run: ModuleNotFoundError"):
        picture.from_file(f"{tmp_path}/bad.py:dark")
    (tmp_path / "bad.py").write_text("raise SystemExit\n")
    with pytest.raises(MismatchError, match=r"cannot be run: SystemExit$"):
        picture.from_file(f"{tmp_path}/bad.py:dark")


def test_a_file_may_hold_dataclasses_and_import_its_neighbours(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "halves_of_light.py").write_text("def half(picture):\n    return picture // 2\n")
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from halves_of_light import half\n\n"
        "@dataclass\nclass Light:\n    less: int = 2\n\n"
        "def dark(picture):\n    return half(picture) // Light().less\n"
    )
    change = picture.from_file(f"{tmp_path}/own.py:dark")
    assert change(np.full((1, 1, 3), 100, np.uint8)).tolist() == [[[25, 25, 25]]]


def test_photographs_of_one_name_are_refused_and_not_lost(photos, tmp_path):
    Image.new("RGB", (80, 76)).save(photos / "1.jpg")
    with pytest.raises(MismatchError, match=r"has 1.jpg and 1.png; expected one picture of each"):
        picture.make_pairs(photos, lambda pixels: pixels, tmp_path / "pairs")


def test_pairs_belong_to_their_filter_and_photographs(photos, tmp_path):
    place, out = f"{tmp_path}/mine.py:dark", tmp_path / "run-pairs"
    picture.pairs_by(place, photos, out, resume=False)
    (out / "sign").touch()
    assert picture.pairs_by(place, photos, out, resume=True) == out  # as they are
    assert (out / "sign").exists()
    with pytest.raises(MismatchError, match=r"another filter .*\(function differ\); resume with"):
        picture.pairs_by(f"{tmp_path}/mine.py:broken", photos, out, resume=True)
    Image.new("RGB", (80, 76)).save(photos / "0.png")
    with pytest.raises(MismatchError, match=r"of other photographs \(photos_sha256 differ"):
        picture.pairs_by(place, photos, out, resume=True)
    picture.pairs_by(place, photos, out, resume=False)  # a run that did not start is tried again
    assert not (out / "sign").exists()
    (out / "filter.json").unlink()
    with pytest.raises(MismatchError, match="is not a folder that --filter made"):
        picture.pairs_by(place, photos, out, resume=False)


def test_a_run_that_could_not_start_leaves_nothing_in_the_way(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = "mine.py:dark"
    for name in ("0.png", "1.png"):  # too small for a patch, twice the same message
        Image.new("RGB", (80, 76)).save(photos / name)
    for _ in range(2):
        with pytest.raises(MismatchError, match="has 0 pictures of at least 144x144 pixels"):
            train_adapter("mylook", "run", base="looks", task="picture", data="photos",
                          own_filter=place, device="cpu")  # fmt: skip
    Path("run").mkdir(exist_ok=True)
    (Path("run") / "log.jsonl").touch()
    before = sorted(Path("run-pairs").rglob("*"))
    with pytest.raises(MismatchError, match="already holds a run; add --resume"):
        train_adapter("mylook", "run", base="looks", task="picture", data="photos",
                      own_filter="mine.py:broken", device="cpu")  # fmt: skip
    assert sorted(Path("run-pairs").rglob("*")) == before
    with pytest.raises(MismatchError, match=r"fails on 0\.png"):  # and not that "." has no name
        train_adapter("mylook", ".", base="looks", task="picture", data="photos",
                      own_filter="mine.py:broken", device="cpu")  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_from_the_same_pairs(photos, tmp_path):
    (tmp_path / "dice.py").write_text(
        "import numpy as np\n\ndef drawn(picture):\n"
        "    return (picture * np.random.default_rng().random()).astype(np.uint8)\n"
    )
    for number in range(2):
        Image.effect_noise((150, 146), 90).save(photos / f"{number}.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
    launch += f" --mixed_precision no --dynamo_backend no --main_process_port {port} -m zoo"
    launch += " adapter train mylook --base looks --task picture --set train.steps=1"
    words = ["--data", photos, "--out", tmp_path / "run", "--filter", f"{tmp_path}/dice.py:drawn"]
    done = subprocess.run(
        [sys.executable, *launch.split(), *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run-pairs/after").iterdir())) == 2


def test_photographs_need_a_filter(photos, tmp_path):
    with pytest.raises(MismatchError, match="has no folders before and after, and no filter says"):
        train_adapter("mylook", tmp_path / "run", base="looks", task="picture", data=str(photos))
    with pytest.raises(MismatchError, match=r"looks-oil has the filter 'oil' .*; give one of them"):
        train_adapter("looks-oil", tmp_path / "run", data=str(photos), own_filter="x.py:y")


@pytest.mark.parametrize(
    ("base", "task"), [("looks", "super-resolution"), ("sesr-m5-x2", "picture")]
)
def test_an_adapter_for_another_task_than_its_base_is_refused(photos, tmp_path, base, task):
    with pytest.raises(
        MismatchError, match=f"mine is for the task {task}, and its base {base} for"
    ):
        train_adapter("mine", tmp_path / "run", base=base, task=task, data=str(photos),
                      settings={"train.options.filter": "night"} if task == "picture" else {},
                      device="cpu")  # fmt: skip


def test_a_new_look_starts_with_the_mask_of_its_task():
    recipe = registry.recipe_for("mylook", "looks", "picture", {})
    assert (recipe.mask.kind, recipe.mask.density) == ("snip", 0.15)
    assert recipe.mask.share("body.0.bias") == 1
    assert recipe.mask.share("body.0.weight") == 0.15


@pytest.fixture
def noise(tmp_path):
    """Pairs, one of which has a name that is not UTF-8 where the disk takes such names."""
    for part in ("before", "after"):
        (tmp_path / "pairs" / part).mkdir(parents=True)
        for name in (b"0.png", b"1.png", b"\xff.png"):
            file = tmp_path / "pairs" / part / os.fsdecode(name)
            try:
                Image.effect_noise((150, 146), 90).convert("RGB").save(file)
            except OSError:
                assert name == b"\xff.png"
    return tmp_path / "pairs"


def test_a_look_is_learned_in_bfloat16_and_from_any_file_name(noise, tmp_path):
    run = tmp_path / "run"
    train_adapter("mylook", run, base="looks", task="picture", data=noise, dtype="bfloat16",
                  settings={"train.steps": 1}, device="cpu")  # fmt: skip
    assert next(iter(SparseAdapter.load(run).tensors.values())).dtype == torch.bfloat16
    assert zoo.run("looks", noise / "before/0.png", adapter=run, dtype="bfloat16")


def test_vectors_are_refused_for_dora_by_name(noise, tmp_path):
    settings = {"train.steps": 1, "method": "shira-dora"}
    with pytest.raises(
        MismatchError, match=r"act.0.weight is a vector, .* leave vectors out: --set"
    ):
        train_adapter("mylook", tmp_path / "run", base="looks", task="picture", data=noise,
                      settings={**settings, "mask.exclude": ("*.bias",)}, device="cpu")  # fmt: skip


def test_a_filter_is_a_text(photos, tmp_path):
    with pytest.raises(
        MismatchError, match=r"the filter is a function; expected the text FILE\.py"
    ):
        picture.from_file(lambda pixels: pixels)


def test_a_filter_is_for_pictures_alone(photos, tmp_path):
    with pytest.raises(MismatchError, match="--filter makes pictures"):
        train_adapter("sesr-m5-x2-text", tmp_path / "run", data=str(photos), own_filter="x.py:y")
