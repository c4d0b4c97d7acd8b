"""The loop is put together from parts: other updates and hooks need no change in it."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import zoo
from zoo.training.accelerator import accelerator_for
from zoo.training.contract import Hook
from zoo.training.loop import Run, average_decay, learning_rate
from zoo.training.network import WholeNetwork
from zoo.training.updates import descent


@pytest.fixture
def run(pictures, tmp_path):
    """Train the tiny form of a recipe with other parts; return the run."""

    def start(name, **parts):
        settings = {"steps": 4, "log_every": 1, "eval_every": 4, "save_every": 4, "lr": 1e-3,
                    "optimizer": "adamw", "accumulation_steps": 2}  # fmt: skip
        recipe, out = zoo.find("sesr-m3-x2").in_tiny_form().override(settings), tmp_path / name
        accelerator = accelerator_for(recipe.name, recipe.train, out, None, "cpu")
        made = Run(WholeNetwork(recipe), out, accelerator, str(pictures), "none", **parts)
        try:
            made.execute()
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()
        return made

    return start


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.trained.parameters()])


def sharpness_aware(rho):
    """SAM (arXiv 2010.01412): the gradient of the worst point nearby."""

    def update(passes, optimizer):
        loss = passes.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        start = [p.detach().clone() for p in parameters]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        with torch.no_grad():
            for p in parameters:
                p.add_(p.grad, alpha=rho / float(norm))
        optimizer.zero_grad()
        passes.backward()
        with torch.no_grad():
            for p, before in zip(parameters, start, strict=True):
                p.copy_(before)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return update


def zeroth_order(passes, optimizer):
    """MeZO (arXiv 2305.17333): two forward passes, and a gradient along one direction."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    directions = [torch.randn_like(p) for p in parameters]
    losses = []
    for move in (1e-3, -2e-3, 1e-3):
        losses.append(passes.forward())
        with torch.no_grad():
            for p, direction in zip(parameters, directions, strict=True):
                p.add_(direction, alpha=move)
    for p, direction in zip(parameters, directions, strict=True):
        assert p.grad is None  # no backward pass has run
        p.grad = direction * (losses[1] - losses[2]) / 2e-3
    optimizer.step()
    optimizer.zero_grad()
    return losses[0]


def test_an_update_may_take_two_backward_passes(run):
    plain = run("plain", update=descent)
    near, far = run("near", update=sharpness_aware(0.0)), run("far", update=sharpness_aware(0.05))
    assert torch.equal(weights(near), weights(plain))
    assert not torch.equal(weights(far), weights(plain))


def test_an_update_may_take_no_backward_pass(run, read_losses):
    trained = run("zeroth", update=zeroth_order)
    losses = read_losses(trained.out)
    assert losses[1] == pytest.approx(read_losses(run("plain").out)[1], abs=1e-7)
    assert len(set(losses.values())) == 4


def test_a_hook_sees_every_step_and_may_change_the_targets(run):
    class Watcher(Hook):
        def __init__(self):
            self.moments = []

        def begin(self, setup, trained):
            self.moments.append("begin")
            self.parameters = sum(p.numel() for p in trained.parameters())

        def prepared(self, setup):
            self.moments.append("prepared")

        def targets(self, inputs, targets, step):
            self.moments.append(step)
            return torch.zeros_like(targets)

        def stepped(self, trained):
            self.moments.append("stepped")

    watcher = Watcher()
    watched = run("watched", hooks=(watcher,))
    parts = [moment for step in range(4) for moment in (step, step, "stepped")]
    assert watcher.moments == ["begin", "prepared", *parts]
    assert watcher.parameters == weights(watched).numel()
    assert not torch.equal(weights(watched), weights(run("plain")))


def test_a_short_run_leaves_its_warm_up():
    settings = zoo.Train(steps=50, batch_size=1, lr=2.0, warmup_steps=500)
    rates = [learning_rate(settings, step) for step in range(50)]
    assert rates[9] == rates[10] == max(rates) == 2  # a fifth of the steps
    assert 0 < rates[-1] < 0.01


@pytest.mark.parametrize(
    ("steps", "decay", "taken"), [(50, 0.999, 0.96), (2000, 0.998, 0.998), (1, 0.9, 0.0)]
)
def test_a_short_run_does_not_average_back_to_its_start(run, steps, decay, taken):
    settings = zoo.Train(steps=steps, batch_size=1, lr=1.0, ema_decay=decay)
    assert average_decay(settings) == pytest.approx(taken)
    assert run("averaged").average.decay == 0.5  # of 4 steps, and a recipe that says 0.999
