"""Training: what a run leaves, what makes no difference, and what stops it."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from PIL import Image

import zoo
from tests.limits import HANGS_SECONDS
from zoo.errors import install
from zoo.training import loop as module

# SOAP takes full steps along gradients that are only rounding errors; AdamW at this rate does not.
ADAMW = {"optimizer": "adamw", "lr": 5e-4}


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """A run of 30 steps at x2."""
    out = tmp_path_factory.mktemp("trained") / "x2"
    assert train(out, steps=30, eval_every=15, save_every=15, lr=2e-3) == 0
    return out


def one_line(capsys):
    """The one line on stderr of a command that failed."""
    error = capsys.readouterr().err
    assert error.startswith("zoo: ")
    assert error.index("\n") == len(error) - 1
    return error[5:-1]


def left_behind(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def close(ours, theirs, tolerance):
    ours, theirs = (zoo.checkpoint(out).state_dict() for out in (ours, theirs))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=tolerance, rtol=0)


def test_a_run_learns_and_leaves_what_it_says(trained, read_losses):
    losses = read_losses(trained)
    assert list(losses) == list(range(1, 31))
    assert losses[30] < 0.8 * losses[1]
    assert left_behind(trained)[:2] == ["LICENSE", "README.md"]
    checkpoint = zoo.checkpoint(trained)
    training, held_out = checkpoint.metrics["training"], checkpoint.metrics["held_out"]
    assert (training["steps"], training["complete"]) == (30, True)
    assert training["samples_per_step"] == 4
    assert held_out["images"] == 1
    assert held_out["step"] in (15, 30)
    assert checkpoint.config["data"]["source"] == "pictures"
    assert checkpoint.config["data"]["images"] == 5
    assert checkpoint.config["data"]["held_out"] == ["0.png"]
    assert checkpoint.license == "not stated"
    assert checkpoint.recipe.train.lr == 2e-3
    y = torch.rand(1, 1, 9, 9)
    assert zoo.load(trained)(y).shape == (1, 1, 18, 18)
    text = "".join(
        path.read_text()
        for path in trained.rglob("*")
        if path.suffix in (".json", ".md", ".jsonl") and path.parent == trained
    )
    assert str(trained.parent) not in text  # no path of this machine


def test_the_checkpoint_is_the_best_on_held_out_data(train, tmp_path, monkeypatch):
    scores = iter([20.0, 23.0, 21.0, 22.0])
    task = module.task_of(zoo.find("sesr-m3-x2"))
    monkeypatch.setattr(task, "validate", lambda *args: {"psnr_y_db": next(scores)})
    assert train(tmp_path, eval_every=2, save_every=8) == 0
    held_out = zoo.checkpoint(tmp_path).metrics["held_out"]
    assert held_out == {"psnr_y_db": 23.0, "images": 1, "step": 4}


def test_the_rate_warms_up_and_falls_to_zero():
    settings = zoo.Train(steps=110, batch_size=1, lr=2.0, warmup_steps=10)
    rates = [module.learning_rate(settings, step) for step in range(110)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2
    assert rates[60] == pytest.approx(1)
    assert 0 < rates[-1] < 1e-3
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_accumulating_two_batches_equals_one_of_double_size(train, tmp_path, read_losses):
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(one, batch_size=8, **ADAMW) == 0
    assert train(two, batch_size=4, accumulation_steps=2, **ADAMW) == 0
    assert read_losses(two) == pytest.approx(read_losses(one), abs=1e-6)
    close(one, two, 1e-5)
    # and the test would see a difference
    three = tmp_path / "three"
    assert train(three, batch_size=4, **ADAMW) == 0
    assert read_losses(three) != pytest.approx(read_losses(one), abs=1e-4)


def test_two_processes_equal_one_with_the_double_batch(small, train, tmp_path, read_losses):
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(one, batch_size=8, clip_norm=0.1, **ADAMW) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # With --cpu, `accelerate launch` starts one process unless MPI starts the others.
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
    launch += f" --mixed_precision no --dynamo_backend no --main_process_port {port} -m zoo"
    done = subprocess.run(
        [sys.executable, *launch.split(), *small(two, batch_size=4, clip_norm=0.1, **ADAMW)],
        capture_output=True, text=True, timeout=HANGS_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held out: psnr_y_db") == 1  # one process speaks
    assert read_losses(two) == pytest.approx(read_losses(one), abs=1e-6)
    close(one, two, 1e-5)
    facts = zoo.checkpoint(two).metrics["training"]
    assert (facts["processes"], facts["samples_per_step"]) == (2, 8)
    assert not list(two.glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines with a CPU alone")
def test_torchrun_on_a_machine_without_an_accelerator_makes_one_run(small, tmp_path):
    words = small(tmp_path / "run", steps=2, eval_every=2)
    if "--device" in words:
        del words[words.index("--device") : words.index("--device") + 2]
    launch = "-m torch.distributed.run --standalone --nproc-per-node 2 -m zoo"
    done = subprocess.run(
        [sys.executable, *launch.split(), *words],
        capture_output=True, text=True, timeout=HANGS_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held out: psnr_y_db") == 1
    assert zoo.checkpoint(tmp_path / "run").metrics["training"]["processes"] == 2


@pytest.mark.parametrize(("optimizer", "step"), [("adamw", 2), ("soap", 3)])
def test_a_loss_that_is_no_number_stops_the_run_with_one_line(
    optimizer, step, train, tmp_path, capsys
):
    out = tmp_path / "run"
    assert train(out, lr=1e30, warmup_steps=0, optimizer=optimizer) == 1
    error = one_line(capsys)
    assert f"at step {step}; stopped, no checkpoint had been written yet" in error
    assert "--set train.lr=2.5e+29" in error
    assert not (out / "config.json").exists()
    assert not list(out.glob(".*"))


def test_the_last_good_checkpoint_survives_and_loads(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "learning_rate", lambda _, step: 1e-4 if step < 5 else 1e30)
    assert train(tmp_path) == 1
    error = one_line(capsys)
    assert f"stopped, the last good checkpoint is in {tmp_path}" in error
    checkpoint = zoo.checkpoint(tmp_path)
    assert (
        checkpoint.metrics["training"] | {"steps": 4, "complete": False}
        == (checkpoint.metrics["training"])
    )
    assert zoo.load(tmp_path)(torch.rand(1, 1, 8, 8)).isfinite().all()
    assert all(map(torch.isfinite, map(torch.tensor, _logged_losses(tmp_path))))


def _logged_losses(out):
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_weights_that_are_no_numbers_are_never_kept(train, tmp_path, capsys):
    """The last step's loss is fine; only the held-out score shows what the step did."""
    assert train(tmp_path / "run", steps=1, warmup_steps=0, optimizer="adamw", lr=1e30) == 1
    assert "the held-out psnr_y_db is nan at step 1" in one_line(capsys)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_tracker_writes_its_files(train, tmp_path):
    assert train(tmp_path, "--tracker", "tensorboard", steps=2) == 0
    files = list((tmp_path / "tracking").rglob("events.out.tfevents.*"))
    assert files
    assert any(b"held_out/psnr_y_db" in file.read_bytes() for file in files)


@pytest.mark.skipif(bool(importlib.util.find_spec("clearml")), reason="clearml is installed")
def test_a_tracker_that_is_not_installed_says_what_to_type(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--tracker", "clearml") == 1
    assert f"clearml is not installed; type: {install('clearml')}" in capsys.readouterr().err


def test_an_unknown_tracker_is_refused(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--tracker", "abacus") == 1
    assert "abacus" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_bf16_trains_close_to_float32(train, tmp_path, read_losses):
    half, full = tmp_path / "half", tmp_path / "full"
    assert train(half, precision="bf16", **ADAMW) == 0
    assert train(full, **ADAMW) == 0
    assert read_losses(half) == pytest.approx(read_losses(full), rel=0.05)
    assert read_losses(half) != read_losses(full)
    assert {t.dtype for t in zoo.checkpoint(half).state_dict().values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inside torch.compile
def test_compiled_training_is_the_same_training(train, tmp_path, read_losses):
    compiled, eager = tmp_path / "compiled", tmp_path / "eager"
    few = {"steps": 4, "eval_every": 4, "save_every": 4, **ADAMW}
    assert train(compiled, compile="true", **few) == 0
    assert train(eager, **few) == 0
    assert read_losses(compiled) == pytest.approx(read_losses(eager), rel=1e-4)
    assert zoo.checkpoint(compiled).state_dict().keys() == zoo.checkpoint(eager).state_dict().keys()


# --- starting from weights ------------------------------------------------------------------------


def test_fine_tuning_starts_from_the_checkpoint(trained, train, tmp_path, read_losses):
    out = tmp_path / "tuned"
    assert train(out, "--from", str(trained), steps=1, lr=1e-9, warmup_steps=0) == 0
    close(out, trained, 1e-5)
    assert zoo.checkpoint(out).recipe.train.init == "sesr-m3-x2.own"  # and not a path
    assert str(trained.parent) not in (out / "README.md").read_text()


def test_x4_starts_from_x2_but_for_its_output(trained, train, tmp_path, capsys):
    out = tmp_path / "x4"
    words = ("--from", str(trained))
    assert train(out, *words, name="sesr-m3-x4", steps=1, lr=1e-9, warmup_steps=0) == 0
    assert zoo.checkpoint(out).recipe.preprocessing["scale"] == 4
    ours, theirs = (
        zoo.checkpoint(out).state_dict(),
        zoo.checkpoint(trained).state_dict(),
    )
    for name, tensor in ours.items():
        if name.startswith("last."):
            assert tensor.shape != theirs[name].shape
        else:
            torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=0)
    assert capsys.readouterr().err == ""


def test_x4_starts_from_its_own_x2_or_says_what_to_type(
    trained, train, tmp_path, monkeypatch, capsys
):
    shelf = tmp_path / "weights"
    shelf.mkdir()
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", shelf)
    assert train(tmp_path / "a", name="sesr-m3-x4") == 1
    error = one_line(capsys)
    assert "sesr-m3-x4 starts from sesr-m3-x2, which has no weights here" in error
    assert "--from DIR" in error
    assert "--from none" in error
    assert not (tmp_path / "a").exists()

    shutil.copytree(trained, shelf / "sesr-m3-x2.photos")
    assert train(tmp_path / "b", name="sesr-m3-x4", steps=1) == 0
    assert zoo.checkpoint(tmp_path / "b").recipe.train.init == "sesr-m3-x2"


def test_x4_from_none_starts_at_random(train, tmp_path):
    assert train(tmp_path, "--from", "none", name="sesr-m3-x4", steps=1) == 0
    assert zoo.checkpoint(tmp_path).recipe.train.init is None
    assert "--from none" in (tmp_path / "README.md").read_text()


def test_a_start_given_as_a_setting_leaves_no_path_either(trained, train, tmp_path):
    assert train(tmp_path, steps=1, init=trained) == 0
    assert zoo.checkpoint(tmp_path).recipe.train.init == "sesr-m3-x2.own"


def test_a_teacher_takes_the_place_of_the_targets(trained, train, tmp_path, read_losses):
    alike = {"teacher": trained, "lr": 1e-9, "warmup_steps": 0, "steps": 1}  # step 0: not turned
    assert train(tmp_path, "--from", str(trained), **alike) == 0
    # Nothing to learn but what the teacher clips: hardly above the loss's floor of 1e-3.
    assert max(read_losses(tmp_path).values()) < 2e-3 < min(read_losses(trained).values()) / 5
    assert zoo.checkpoint(tmp_path).recipe.train.teacher == "sesr-m3-x2.own"
    assert '--set train.teacher="sesr-m3-x2.own"' in (tmp_path / "README.md").read_text()


def test_a_teacher_of_another_scale_is_refused(train, tmp_path, capsys):
    assert train(tmp_path / "x4", "--from", "none", name="sesr-m3-x4", steps=1) == 0
    capsys.readouterr()
    assert train(tmp_path / "x2", teacher=tmp_path / "x4") == 1
    assert "returns (4, 1, 64, 64); expected (4, 1, 32, 32)" in one_line(capsys)


def test_a_start_from_another_width_is_refused(trained, train, tmp_path, capsys):
    assert train(tmp_path / "run", "--from", str(trained), name="sesr-xl-x2") == 1
    assert "sesr-xl-x2 cannot start from these weights: needs a SESR with 32 channels and at" in (
        one_line(capsys)
    )


# --- bad data, bad settings -----------------------------------------------------------------------


def unusable(kind, tmp_path, draw_pictures):
    folder = tmp_path / "data"
    if kind == "text only":
        folder.mkdir()
        (folder / "notes.txt").write_text("no picture")
    elif kind == "too small":
        draw_pictures(folder, 3, (31, 80))
    elif kind == "tiny":
        draw_pictures(folder, 3, (1, 1))
    elif kind == "only one":
        draw_pictures(folder, 1)
    elif kind == "unreadable":
        draw_pictures(folder, 3)
        (folder / "bad.png").write_bytes((folder / "1.png").read_bytes()[:200])
    elif kind == "bomb":
        draw_pictures(folder, 2)
        Image.new("1", (20_000, 10_000)).save(folder / "bomb.png")
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such folder: "),
        ("text only", "no pictures in "),
        ("too small", "has 0 images of at least 32x32 pixels (of 3 in all); expected two or more"),
        ("tiny", "has 0 images of at least 32x32 pixels (of 3 in all); expected two or more"),
        ("only one", "has 1 images of at least 32x32 pixels (of 1 in all); expected two or more"),
        ("unreadable", "training image bad.png cannot be read as a picture"),
        ("bomb", "training image bomb.png claims "),
    ],
)
def test_data_that_cannot_be_used_are_named(
    kind, message, train, tmp_path, draw_pictures, capsys, monkeypatch
):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    data = unusable(kind, tmp_path, draw_pictures)
    assert train(tmp_path / "run", "--data", data) == 1
    error = one_line(capsys)
    assert message in error
    assert not (tmp_path / "run").exists()
    if kind in ("unreadable", "bomb"):
        assert left_behind(tmp_path / "cache") == []


def test_a_data_set_of_the_hub_without_a_network_is_one_line(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--data", "org/pictures") == 1
    assert "data set 'org/pictures' cannot be loaded" in one_line(capsys)


def test_pictures_are_decoded_once_and_any_change_is_seen(
    train, tmp_path, draw_pictures, monkeypatch
):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    data = draw_pictures(tmp_path / "data", 3)
    prepared = tmp_path / "cache" / "prepared"
    for number in (1, 2):
        assert train(tmp_path / f"run{number}", "--data", str(data), steps=1) == 0
        assert len(list(prepared.iterdir())) == 1
    (data / "0.png").rename(data / "9.png")
    assert train(tmp_path / "run3", "--data", str(data), steps=1) == 0
    assert len(list(prepared.iterdir())) == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"speed": 9}, "no setting 'train.speed'; known: train.steps, "),
        ({"steps": "many"}, "train.steps is 'many'; expected int"),
        ({"lr": 0}, "train.lr is 0.0; expected a positive number"),
        ({"seed": -1}, "train.seed is -1; expected at least 0"),
        ({"data": "x"}, "no setting 'train.data'"),
        ({"options.patch_size": 0}, "train.options.patch_size is 0; expected at least 1"),
        ({"options.expansion": -2}, "'expansion': -2, 'patch_size': 16, 's"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_wrong_setting_is_named(setting, message, train, tmp_path, capsys):
    assert train(tmp_path / "run", **setting) == 1
    assert message in one_line(capsys)
    assert left_behind(tmp_path) == []


def test_an_output_that_is_a_file_is_refused(train, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert train(out) == 1
        assert f"cannot write into {out}" in one_line(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="every user may write there")
def test_a_cache_that_cannot_be_written_is_one_line(train, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file" / "cache"))
    assert train(tmp_path / "run") == 1
    assert "cannot write" in one_line(capsys)
