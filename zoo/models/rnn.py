"""Recurrent keyword spotters, their matrices in forms: KP, HKP and HMF (arXiv 1906.02876 and kin).

The network reads a clip's features frame by frame, and judges by its state after the last. It can
also go on from a state: a stream costs one step for each new frame.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.structured.composed import from_json
from zoo.models.structured.recurrent import StructuredLSTM

State = tuple[Tensor, ...]


class KeywordLstm(nn.Module):
    """One LSTM and a layer over its state.

    Args:
        inputs: coefficients of a frame.
        hidden: units of the state.
        num_classes: labels.
        of_inputs: the form of the matrix (4 hidden, inputs), as JSON, e.g. {"dense": {}}.
        of_state: that of the matrix (4 hidden, hidden).
        spread: what each coefficient is divided by; powers of two are shifts on a device. A form
            in which columns share numbers cannot do that itself.

    """

    gain: Tensor

    def __init__(
        self,
        inputs: int,
        hidden: int,
        num_classes: int,
        of_inputs: Mapping[str, Any],
        of_state: Mapping[str, Any],
        spread: Sequence[float],
    ) -> None:
        super().__init__()
        if len(spread) != inputs or not all(one > 0 for one in spread):
            raise ValueError(f"spread is {list(spread)}; expected {inputs} numbers above 0")
        self.register_buffer("gain", 1 / torch.tensor(spread), persistent=False)
        forms = from_json(of_inputs, "of_inputs"), from_json(of_state, "of_state")
        self.lstm = StructuredLSTM(inputs, hidden, *forms)
        self.head = nn.Linear(hidden, num_classes)
        if (bias := self.lstm.of_inputs.bias) is not None:  # what was heard is kept at first
            nn.init.ones_(bias.data[hidden : 2 * hidden])

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, 1, frames, inputs) to logits (N, classes)."""
        frames = x.squeeze(1) * self.gain
        # One call of torch: steps in a loop train many times slower.
        last = self.lstm.trained(frames)[:, -1] if self.training else self.lstm(frames)[1][0]
        logits: Tensor = self.head(last)
        return logits

    @torch.inference_mode()
    def push(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits after each of some further frames, and the state to go on from.

        Args:
            frames: features (N, frames, inputs) that follow those before.
            state: as returned before; None begins anew.

        Returns:
            Logits (N, frames, classes), those that the whole run has after as many frames.

        """
        outputs, after = self.lstm(frames * self.gain, state)
        return self.head(outputs), after

    def stepping(self) -> "KeywordStep":
        """Return the network of one frame, which shares the weights: what a device runs."""
        return KeywordStep(self.gain, self.lstm, self.head).train(self.training)


class KeywordStep(nn.Module):
    """A frame and the state before it to logits and the state after it.

    Args:
        gain: what each coefficient (inputs,) is multiplied by.
        lstm: the layer that reads the frame.
        head: the layer over its state.

    """

    gain: Tensor

    def __init__(self, gain: Tensor, lstm: StructuredLSTM, head: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("gain", gain, persistent=False)
        self.lstm, self.head = lstm, head

    def forward(self, frame: Tensor, hidden: Tensor, cell: Tensor) -> State:
        """Map (N, inputs) and the state, twice (N, hidden), to logits (N, classes) and the state.

        A stream begins with a state of zeros.
        """
        after = self.lstm.step(self.lstm.of_inputs(frame * self.gain), (hidden, cell))
        return self.head(after[0]), *after
