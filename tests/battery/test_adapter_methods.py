"""The contract of every adapter method; a new one is tested by being there."""

import copy
import json

import pytest
import torch
from torch import nn

from zoo import extensions
from zoo.adapters import masks
from zoo.adapters.methods.contract import Options, method
from zoo.adapters.recipe import METHODS, AdapterRecipe, MaskOptions
from zoo.errors import UnknownNameError
from zoo.registry.recipe import Train

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # peft 0.21


class Net(nn.Module):
    """Two linear layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)))


@pytest.fixture(params=extensions.names(METHODS))
def name(request):
    pytest.importorskip("peft")
    return request.param


def attached(name, model, seed=0):
    options = Options(rank=2, mask=MaskOptions(density=0.25), seed=seed)
    chosen = method(name)
    counts = chosen.budget(model, options)
    indices = masks.choose(model, options.mask, counts=counts) if counts is None or counts else {}
    torch.manual_seed(seed)
    return chosen.attach(model, indices, options)


def steps(attachment, count=2):
    """Train; return the losses."""
    torch.manual_seed(1)
    x, y = torch.randn(8, 12), torch.randn(8, 4)
    optimizer = torch.optim.AdamW(attachment.trained.parameters(), lr=0.05)
    losses = []
    for _ in range(count):
        loss = nn.functional.mse_loss(attachment.model(x), y)
        loss.backward()
        attachment.collect()
        optimizer.step()
        optimizer.zero_grad()
        attachment.use()
        losses.append(float(loss.detach()))
    return losses


def outputs(model):
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 24).view(2, 12)).clone()


def test_it_trains_lends_other_values_and_restores_the_base_to_the_bit(name):
    model = Net()
    before, state = outputs(model), copy.deepcopy(model.state_dict())
    attachment = attached(name, model)
    torch.testing.assert_close(outputs(attachment.model), before)  # nothing has been learned yet
    json.dumps(attachment.facts)
    first = {key: value.clone() for key, value in attachment.trained.state_dict().items()}
    losses = steps(attachment)
    assert losses[1] < losses[0]
    trained = outputs(attachment.model)
    assert not torch.allclose(trained, before)
    attachment.use(first)
    torch.testing.assert_close(outputs(attachment.model), before)
    attachment.use()
    assert torch.equal(outputs(attachment.model), trained)
    attachment.close()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(outputs(model), before)


def test_its_result_is_what_was_trained(name, tmp_path):
    model = Net()
    attachment = attached(name, model)
    steps(attachment)
    trained = outputs(attachment.model)
    values = {k: v.detach().clone() for k, v in attachment.trained.state_dict().items()}
    sparse = attachment.result(values, tmp_path)
    if sparse is None:
        from peft import PeftModel

        assert (tmp_path / "adapter_model.safetensors").is_file()
        again = PeftModel.from_pretrained(Net(), tmp_path)
    else:
        deltas, pristine = sparse
        again = Net()
        assert all(torch.equal(pristine[key], value) for key, value in again.named_parameters())
        with torch.no_grad():
            for key, (indices, delta) in deltas.items():
                again.get_parameter(key).view(-1)[indices] += delta
        assert not any(tmp_path.iterdir())
    torch.testing.assert_close(outputs(again), trained)
    attachment.use()
    assert torch.equal(outputs(attachment.model), trained)
    attachment.close()


def test_a_method_of_another_name_is_refused_with_near_misses():
    train = Train(steps=1, batch_size=1, lr=1.0)
    with pytest.raises(UnknownNameError, match="did you mean shira"):
        AdapterRecipe(name="x", summary="", base="b", task="t", train=train, method="shirra")
    with pytest.raises(UnknownNameError, match="did you mean lora"):
        method("lorra")
