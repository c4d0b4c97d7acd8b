"""Resuming: a killed run and an uninterrupted one end in the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import zoo
from zoo.training import loop as module

LONG = {"steps": 120, "eval_every": 20, "save_every": 5}


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run of 8 steps with a state at 4 and at 8, never interrupted."""
    out = tmp_path_factory.mktemp("run") / "whole"
    assert train(out) == 0
    return out


@pytest.fixture
def copy(whole, tmp_path):
    """That run, in a folder to play with."""
    return shutil.copytree(whole, tmp_path / "copy")


def weights(out):
    return (out / "model.safetensors").read_bytes()


def names(out):
    return sorted(path.name for path in out.iterdir())


def facts(out):
    """The metrics without what a clock says."""
    metrics = json.loads((out / "metrics.json").read_text())
    del metrics["training"]["hours"]
    return metrics


def stop(monkeypatch, where, step):
    """Let `Run.<where>` be interrupted, as by Ctrl-C, when the run is at that step."""
    original = getattr(module.Run, where)

    def wrapped(self, *args):
        if self.progress.step == step:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(module.Run, where, wrapped)


def kill(command, seen):
    """Start a program, and kill it without warning as soon as `seen()`."""
    with subprocess.Popen(
        [sys.executable, "-m", "zoo", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            while process.poll() is None and not seen():
                time.sleep(0.0005)
            assert process.poll() is None, process.stdout.read().decode()
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_run_killed_twice_ends_in_the_same_bits(small, train, tmp_path, read_losses, capfd):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole, **LONG) == 0

    def between_states():
        log = killed / "log.jsonl"
        return (killed / "state-00000010").exists() and '"step": 13' in log.read_text()

    def while_a_state_is_written():
        return any(path.name > ".state-00000030" for path in killed.glob(".state-*"))

    kill(small(killed, **LONG), between_states)
    assert read_losses(killed).keys() >= {
        11,
        12,
        13,
    }  # lines after the state; they are logged again
    kill(small(killed, "--resume", **LONG), while_a_state_is_written)
    assert list(killed.glob(".state-*"))
    assert not json.loads((killed / "metrics.json").read_text())["training"]["complete"]
    zoo.load(killed)  # the best checkpoint so far can be used
    assert train(killed, "--resume", **LONG) == 0

    assert weights(killed) == weights(whole)
    assert facts(killed) == facts(whole)
    assert read_losses(killed) == read_losses(whole)
    assert list(read_losses(killed)) == list(range(1, 121))
    assert names(killed) == names(whole)
    assert list(killed.glob("state-*")) == [killed / "state-00000120"]


@pytest.mark.parametrize(
    ("where", "step"),
    [
        ("_step", 1),  # before the first state
        ("_step", 6),  # between two
        ("_save", 8),  # before the last
        ("_write_result", 4),  # after a state, before its checkpoint
        ("_write_result", 8),
    ],
)
def test_a_run_interrupted_anywhere_ends_in_the_same_bits(
    whole, train, tmp_path, read_losses, monkeypatch, where, step
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, where, step)
        assert train(out) == 130
    assert train(out, "--resume") == 0
    assert weights(out) == weights(whole)
    assert facts(out) == facts(whole)
    assert read_losses(out) == read_losses(whole)
    assert names(out) == names(whole)


def test_losses_between_two_lines_of_the_log_are_kept_in_a_state(
    train, tmp_path, read_losses, monkeypatch
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, log_every=3) == 0
    with monkeypatch.context() as patch:
        stop(patch, "_step", 5)  # one step after a state, and two after a line
        assert train(broken, log_every=3) == 130
    assert train(broken, "--resume", log_every=3) == 0
    assert list(read_losses(whole)) == [3, 6, 8]
    assert read_losses(broken) == read_losses(whole)


def test_patience_ends_a_run_that_finds_nothing_better_also_after_a_break(
    train, tmp_path, monkeypatch
):
    still = {"lr": 1e-30, "weight_decay": 0, "steps": 40, "eval_every": 2, "patience": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, **still) == 0
    assert facts(whole)["training"] | {"steps": 6, "complete": True} == facts(whole)["training"]
    assert facts(whole)["held_out"]["step"] == 2
    assert [path.name for path in whole.glob("state-*")] == ["state-00000006"]
    with monkeypatch.context() as patch:
        stop(patch, "_save", 6)
        assert train(broken, **still) == 130
    for _ in range(2):  # the second finds it finished
        assert train(broken, "--resume", **still) == 0
        assert weights(broken) == weights(whole)
        assert facts(broken) == facts(whole)


def test_a_line_cut_by_the_kill_is_dropped(whole, train, tmp_path, read_losses, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, "_step", 6)
        assert train(out) == 130
    with (out / "log.jsonl").open("a") as stream:
        stream.write('{"step": 7, "lo')
    assert train(out, "--resume") == 0
    assert read_losses(out) == read_losses(whole)


def test_resuming_a_finished_run_changes_nothing(copy, train, capsys):
    zoo.checkpoint(copy).record("mine", {"psnr_y_db": 1.0, "images": 1})
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert train(copy, "--resume") == 0
    assert str(copy) in capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert "mine (1)" in after.pop("README.md").decode()  # the card is rendered again
    del before["README.md"]
    assert after == before


def test_resume_without_a_run_starts_one(whole, train, tmp_path):
    out = tmp_path / "new" / "run"
    assert train(out, "--resume") == 0
    assert weights(out) == weights(whole)


def test_a_checkpoint_without_a_state_cannot_be_resumed(copy, train, capsys):
    shutil.rmtree(copy / "state-00000008")
    assert train(copy, "--resume") == 1
    assert capsys.readouterr().err == (
        f"zoo: {copy} holds a checkpoint but no state to resume from\n"
    )


def test_a_used_folder_is_refused_untouched(copy, train, capsys):
    before = weights(copy)
    assert train(copy) == 1
    assert capsys.readouterr().err == (
        f"zoo: {copy} already holds a run; add --resume to go on with it, or choose another "
        "folder\n"
    )
    assert weights(copy) == before


@pytest.mark.parametrize("name", ["README.md", "LICENSE"])
def test_a_folder_of_something_else_is_refused_untouched(train, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    for words in ([], ["--resume"]):
        assert train(tmp_path, *words) == 1
        assert capsys.readouterr().err == (
            f"zoo: {tmp_path} holds no run, and one would overwrite its {name}; choose another "
            "folder\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "sesr-m5-x2"}, "recipe 'sesr-m3-x2', not 'sesr-m5-x2'"),
        ({"batch_size": 5}, "recipe.train.batch_size = 4, not 5"),
        ({"steps": 16}, "recipe.train.steps = 8, not 16"),
        ({"options.expansion": 8}, "recipe.train.options.expansion = 16, not 8"),
        ({"seed": 1}, "recipe.train.seed = 0, not 1"),
    ],
    ids=["recipe", "batch", "steps", "option", "seed"],
)
def test_other_settings_are_refused_by_name(whole, train, capsys, change, message):
    before = weights(whole)
    assert train(whole, "--resume", **change) == 1
    assert capsys.readouterr().err == (
        f"zoo: {whole} was trained with {message}; resume with the same settings, or start in "
        "another folder\n"
    )
    assert weights(whole) == before


def test_weights_to_start_from_are_known_by_what_they_are(whole, copy, train, tmp_path, capsys):
    """A release may call them otherwise; what a folder held then is what counts."""
    out, words = tmp_path / "tuned", ("--from", str(copy), "--set", f"train.teacher={copy}")
    assert train(out, *words) == 0
    path = out / "state-00000008" / "run.json"
    state = json.loads(path.read_text())
    assert state["identity"]["recipe"]["train"]["init"] == "sesr-m3-x2.own"
    for key in ("init", "teacher"):
        state["identity"]["recipe"]["train"][key] = "sesr-m3-x2.free"
    path.write_text(json.dumps(state))
    assert train(out, *words, "--resume") == 0

    other = tmp_path / "other"
    assert train(other, seed=1) == 0
    for key, another in (("init", {1: str(other)}), ("teacher", {3: f"train.teacher={other}"})):
        changed = [another.get(place, word) for place, word in enumerate(words)]
        capsys.readouterr()
        assert train(out, *changed, "--resume") == 1
        assert f"was trained with recipe.weights.{key} = '" in capsys.readouterr().err
    assert train(out, "--resume", *words[2:]) == 1  # and none is not another name
    assert "recipe.train.init = 'sesr-m3-x2.free', not None" in capsys.readouterr().err


def test_other_data_are_refused(whole, train, tmp_path, draw_pictures, capsys):
    other = draw_pictures(tmp_path / "other", 6, seed=1)
    assert train(whole, "--resume", "--data", str(other)) == 1
    error = capsys.readouterr().err
    assert f"{whole} was trained with data = " in error
    assert error.count("\n") == 1


def test_a_field_that_came_with_a_newer_version_does_not_stand_in_the_way(copy, train):
    path = copy / "state-00000008" / "run.json"
    state = json.loads(path.read_text())
    del state["identity"]["recipe"]["train"]["init"]  # None, as every unset field
    path.write_text(json.dumps(state))
    assert train(copy, "--resume") == 0
