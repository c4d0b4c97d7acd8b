"""What a teacher makes of the inputs of super resolution, and the loss."""

import pytest
import torch
import torch.nn.functional as F

from zoo import registry
from zoo.tasks import super_resolution

RECIPE = registry.find("sesr-m3-x2")


class Nearest(torch.nn.Module):
    """A teacher that treats all directions alike, and keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, y):
        self.seen.append(y)
        return F.interpolate(y, scale_factor=2)


def test_a_teacher_sees_every_turn_and_its_answers_come_back_upright():
    teacher, inputs = Nearest(), torch.arange(2 * 9.0).reshape(2, 1, 3, 3)
    for step in range(64):
        targets = super_resolution.taught(teacher, inputs, RECIPE, step)
        assert torch.equal(targets, F.interpolate(inputs, scale_factor=2))
    assert len({tuple(y.flatten().tolist()) for y in teacher.seen}) == 8
    super_resolution.taught(teacher, inputs, RECIPE, 5)
    assert torch.equal(teacher.seen[-1], teacher.seen[5])  # a function of the step


def test_the_loss_is_the_error_of_each_patch():
    target = torch.zeros(2, 1, 4, 4)
    output = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), -0.3)])
    assert super_resolution.loss(output, target).item() == pytest.approx(0.2, abs=1e-5)
