"""A base trained together with its adapters: resume, restore, mixtures, and refusals."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

import zoo
from zoo.adapters import SparseAdapter, Switcher, joint, registry
from zoo.adapters.folder import FILE
from zoo.adapters.sparse import fingerprint
from zoo.errors import MismatchError, ZooError
from zoo.registry.checkpoint import Checkpoint

NAMES = ("looks-film", "looks-night", "looks-pencil")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    dice = np.random.default_rng(0)
    for number in range(4):
        squares = dice.integers(0, 256, (10, 12, 3)).astype(np.uint8)
        image = Image.fromarray(squares).resize((96, 80), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def accelerated():
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def recipe(**settings):
    tiny = zoo.find("looks").in_tiny_form()
    steps = {"steps": 8, "eval_every": 4, "save_every": 2, "log_every": 1, "warmup_steps": 1}
    return tiny.override({**steps, **settings})


def fit(out, photos, adapters=NAMES, resume=False, **settings):
    looks = [registry.find(name) for name in adapters]
    return joint.train(
        recipe(**settings), looks, out, data=str(photos), resume=resume, device="cpu"
    )


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    return fit(tmp_path_factory.mktemp("joint") / "run", photos)


def switcher(run):
    model = Checkpoint.read(run).load()
    made = Switcher(model)
    for name in NAMES:
        made.register(name, SparseAdapter.load(run / "adapters" / name / FILE))
    return model, made


def test_a_run_that_was_killed_ends_with_the_same_bits(photos, trained, tmp_path, monkeypatch):
    step, seen = joint.JointRun._step, []

    def killed(self, number):
        if number == 5 and not seen:
            seen.append(number)
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(joint.JointRun, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", photos)
    AcceleratorState._reset_state(reset_partial_state=True)
    fit(tmp_path / "run", photos, resume=True)
    files = ["model.safetensors", *(f"adapters/{name}/{FILE}" for name in NAMES)]
    for file in files:
        assert (tmp_path / "run" / file).read_bytes() == (trained / file).read_bytes()


def test_mixing_gives_other_pictures_and_the_base_comes_back_to_the_bit(trained):
    model, mixer = switcher(trained)
    before, x = fingerprint(model), torch.rand(1, 6, 24, 24)
    with torch.no_grad():
        outputs = [model(x)]
        for what in ({NAMES[0]: 1.0}, {NAMES[0]: 0.5, NAMES[1]: 1.0}, dict.fromkeys(NAMES, 1.0)):
            mixer.activate(what)
            outputs.append(model(x))
    for one, two in itertools.pairwise(outputs):
        assert two.isfinite().all()
        assert not torch.equal(one, two)
    mixer.deactivate()
    assert fingerprint(model) == before


def test_what_was_trained_is_what_the_switcher_computes(trained):
    model, mixer = switcher(trained)
    strengths = {NAMES[0]: 0.3, NAMES[2]: 1.0}
    indices, deltas = {}, {}
    for name in NAMES:
        tensors = SparseAdapter.load(trained / "adapters" / name / FILE).tensors
        indices[name] = {key: tensor.indices for key, tensor in tensors.items()}
        deltas[name] = torch.cat([tensor.values for tensor in tensors.values()])
    together = joint.Together(Checkpoint.read(trained).load(), indices).eval()
    together.deltas.load_state_dict(deltas)
    x = torch.rand(1, 6, 24, 24)
    with torch.no_grad():
        expected = together(x, strengths)
        mixer.activate(strengths)
        torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=0)
        with pytest.raises(MismatchError, match="no adapter 'looks-oil'"):
            together(x, {"looks-oil": 1.0})


def test_a_look_of_another_base_is_refused(trained):
    model = Checkpoint.read(trained).load()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.001)
    mixer = Switcher(model)
    mixer.register("film", SparseAdapter.load(trained / "adapters" / NAMES[0] / FILE))
    with pytest.raises(MismatchError, match="base"):
        mixer.activate("film")


def test_steps_are_a_function_of_their_number_and_stay_in_range():
    assert joint.mixtures(NAMES, 0, 3, alone=True) == [{}, *({name: 1.0} for name in NAMES)]
    drawn = [joint.mixtures(NAMES, 0, step, alone=False) for step in range(40)]
    assert drawn == [joint.mixtures(NAMES, 0, step, alone=False) for step in range(40)]
    passes = [strengths for step in drawn for strengths in step]
    assert all(0 <= value <= 1 for strengths in passes for value in strengths.values())
    assert dict.fromkeys(NAMES, 1.0) in passes
    assert {len(strengths) for strengths in passes} == {0, 1, 2, 3}
    for few in (NAMES[:1], NAMES[:2]):
        assert all(set(s) <= set(few) for s in joint.mixtures(few, 0, 1, alone=False))


def test_what_cannot_be_trained_together_is_refused_by_name(photos, tmp_path):
    film = registry.find(NAMES[0])
    cases = {
        "no adapters to train": [],
        "two adapters have one name": [film, film],
        "is for the task super-resolution": [registry.find("sesr-m5-x2-text")],
        "mask of kind 'snip'": [film.override({"mask.kind": "snip"})],
    }
    for message, adapters in cases.items():
        with pytest.raises(MismatchError, match=message):
            joint.train(recipe(), adapters, tmp_path / "no", data=str(photos), device="cpu")
    for share in (-1.0, 2.0):
        with pytest.raises(
            MismatchError, match=f"train.options.alone is {share}; expected a share"
        ):
            fit(tmp_path / "no", photos, **{"options.alone": share})
    fit(tmp_path / "run", photos, NAMES[:2], steps=2)
    with pytest.raises(ZooError, match="resume with the same settings"):
        fit(tmp_path / "run", photos, NAMES[:2], resume=True, steps=4)
    changed = dataclasses.replace(film, mask=dataclasses.replace(film.mask, seed=99))
    with pytest.raises(MismatchError, match=r"adapters\.looks-film\.mask\.seed"):
        joint.train(
            recipe(steps=2), [changed, registry.find(NAMES[1])], tmp_path / "run",
            data=str(photos), resume=True, device="cpu",
        )  # fmt: skip
