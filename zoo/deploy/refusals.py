"""What `.tflite` files hold that is not read here, and why: a table for people.

`tests/faults/test_tflite_refusals.py` has a file for each row, and checks what is said of it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something that a file may hold.

    Attributes:
        what: its name.
        says: what the message says, in part.
        why: why it is not read, and what to do.

    """

    what: str
    says: str
    why: str


REFUSALS = (
    Refusal(
        what="an operator without a kind here",
        says="is not known: convert the network without it",
        why="it is not computed here; the message gives its name, number and place",
    ),
    Refusal(
        what="a custom operator, such as `TFLite_Detection_PostProcess`",
        says="custom operator ",
        why="its meaning is a program outside the file; cut it off when the file is converted",
    ),
    Refusal(
        what="control flow: `IF`, `WHILE`, `CALL`",
        says="WHILE (code 119)",
        why="no device runs it from an arena planned ahead; unroll loops when converting",
    ),
    Refusal(
        what="a newer version of an operator than LiteRT 2.3 has",
        says="has version 99; versions up to ",
        why="what it computes is not known",
    ),
    Refusal(
        what="shapes that depend on the input, but for the batch",
        says="has the dynamic shape",
        why="give fixed shapes when converting",
    ),
    Refusal(
        what="complex numbers, texts, int4, bfloat16",
        says="which nothing here computes with",
        why="no kernel of these types here",
    ),
    Refusal(
        what="sparse tensors",
        says="is stored sparsely",
        why="convert without sparsity: few runtimes read it",
    ),
    Refusal(
        what="tensors outside the file's tables",
        says="is kept outside the file",
        why="of files of 2 GiB and more, which no microcontroller takes",
    ),
    Refusal(
        what="fully connected layers with shuffled weights",
        says="has shuffled weights",
        why="an order for one processor's kernels; convert without it",
    ),
    Refusal(
        what="LSTMs with peepholes, a projection, a layer norm, or coupled gates",
        says="has peepholes, which is not supported",
        why="TFLite Micro does not have them either",
    ),
    Refusal(
        what="floats on int8 weights, but for convolutions and fully connected layers",
        says="is int8; expected float32",
        why="quantize the activations, too",
    ),
    Refusal(
        what="int16 sums whose scales are powers of two, and may be shifted",
        says="may shift int16 instead of rescaling it",
        why="runtimes do it differently; convert with `pot_scale_int16 = false`",
    ),
    Refusal(
        what="int16 layers without a bias",
        says="without a bias, runtimes sum int16 products differently",
        why="give the layer a bias, of zeros if need be",
    ),
    Refusal(
        what="int16 layers whose bias is int32",
        says="its bias is int32 (4,) for 4 outputs; expected int64",
        why="runtimes do it differently; convert with int64 biases, the default",
    ),
    Refusal(
        what="slices with an ellipsis or a new axis",
        says="has an ellipsis or a new axis",
        why="converters write a reshape instead, if asked for fixed shapes",
    ),
)
