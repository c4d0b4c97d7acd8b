"""Packed language models as ONNX: codes stay codes, decoded where they are multiplied.

Integers with scales are multiplied by ONNX Runtime's own operator, see `zoo.deploy.language.nbits`;
codebooks are looked up by a Gather.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.deploy.fidelity import faithful
from zoo.deploy.language import nbits
from zoo.deploy.onnx import OPSET, OnnxFile, packages, written
from zoo.deploy.onnx import _quiet as quiet
from zoo.errors import MismatchError
from zoo.files import replacing
from zoo.quantization.embeddings import PackedEmbedding, PackedHead, Rows, TiedHead
from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.grids.uniform import Uniform
from zoo.quantization.packed import PackedLinear, unpacked
from zoo.quantization.packing import from_half_bits, unpack

LIMIT = 2_000_000_000  # bytes of one protocol buffer


class Gathered(nn.Module):
    """A packed layer in operators that ONNX has: one byte per code, looked up at run time.

    Raises:
        MismatchError: it has block scales, or a grid that has no small form in ONNX.

    """

    def __init__(self, layer: PackedLinear) -> None:
        super().__init__()
        grid = layer.grid
        self.rows, self.columns = grid.rows, grid.columns
        if layer.options.scale_block:
            raise MismatchError(
                "block scales (scale_block) cannot be exported to ONNX; quantize without them"
            )
        codes = unpacked(layer.get_buffer("codes"), grid.index_bits, grid.cells)
        self.register_buffer("codes", codes)
        self.bias = layer.bias
        if isinstance(grid, Codebooks):
            self._keep_codebooks(layer, grid)
        elif isinstance(grid, Uniform):
            self._keep_steps(layer, grid)
        else:
            raise MismatchError(
                f"{type(grid).__name__} weights have no form in ONNX; dequantize the model first: "
                "model.dequantize()"
            )
        order = layer.get_buffer("order").long().argsort() if layer.options.act_order else None
        self.register_buffer("place", order)

    def _keep_codebooks(self, layer: PackedLinear, grid: Codebooks) -> None:
        # Where a place's centroid lies in the table of all: (column group, row group, code).
        size = 1 << grid.index_bits
        group = torch.arange(grid.cells) // (grid.span // grid.dim)
        self.register_buffer("across", group * grid.row_groups * size)
        self.register_buffer("down", (torch.arange(grid.rows) // grid.group_rows * size)[:, None])
        codebook, stored = layer.codebooks()
        codebook = codebook.flatten(0, 2)
        if stored is not None:
            scale = from_half_bits(stored).flatten()
            self.register_buffer("scale", scale.to(torch.float16)[:, None, None])
        else:
            codebook = codebook.view(torch.float16)
            self.register_buffer("scale", None)
        self.register_buffer("codebook", codebook.view(-1, size, grid.dim))

    def _keep_steps(self, layer: PackedLinear, grid: Uniform) -> None:
        self.register_buffer("group", torch.arange(grid.columns) // grid.span)
        scale = from_half_bits(layer.get_buffer("scale")).to(torch.float16)
        self.register_buffer("scale", scale.T.contiguous())
        zero = unpack(layer.get_buffer("zero"), grid.index_bits, grid.rows)
        self.register_buffer("zero", zero.T.contiguous())
        self.register_buffer("codebook", None)

    def weight(self) -> Tensor:
        """Return W (rows, columns), the bits of `PackedLinear.dequantize`."""
        codes = self.get_buffer("codes")
        if self.codebook is not None:
            table = self.get_buffer("codebook").to(torch.float32)
            if self.scale is not None:
                table = table * self.get_buffer("scale").to(torch.float32)
            places = codes.to(torch.int64) + self.get_buffer("across") + self.get_buffer("down")
            values = F.embedding(places, table.flatten(0, 1)).flatten(1)
        else:
            group = self.get_buffer("group")
            zero = self.get_buffer("zero").to(torch.float32).index_select(1, group)
            scale = self.get_buffer("scale").to(torch.float32).index_select(1, group)
            values = scale * (codes.to(torch.float32) - zero)
        values = values[:, : self.columns]
        return values if self.place is None else values.index_select(1, self.get_buffer("place"))

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        return F.linear(x, self.weight(), self.bias)


class GatheredRows(nn.Module):
    """8-bit rows in operators that ONNX has: an embedding, and what a head multiplies by.

    Args:
        rows: the rows of the packed embedding or head.
        bias: the bias of the head.

    """

    def __init__(self, rows: Rows, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.register_buffer("codes", rows.codes)
        self.register_buffer("scale", rows.scale.view(torch.float16).unsqueeze(1))
        self.bias = bias

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (batch, length)."""
        codes, scale = self.get_buffer("codes"), self.get_buffer("scale")
        return codes[ids].to(torch.float32) * scale[ids].to(torch.float32)

    def times(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        codes, scale = self.get_buffer("codes"), self.get_buffer("scale")
        return F.linear(x, codes.to(torch.float32) * scale.to(torch.float32), self.bias)


class _Times(nn.Module):
    """A head of such rows."""

    def __init__(self, rows: GatheredRows | nbits.NBitsRows) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.times(x)


def _gather(model: Any) -> None:
    """Replace every packed layer of a language model."""
    packed = {n: part for n, part in model.named_modules() if isinstance(part, PackedLinear)}
    for name, layer in packed.items():
        model.set_submodule(name, nbits.layer_of(layer) if nbits.fits(layer) else Gathered(layer))
    # Files without the operator can be read by other runtimes than ONNX Runtime too.
    rows_form = nbits.NBitsRows if any(map(nbits.fits, packed.values())) else GatheredRows
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(table, PackedEmbedding):
        rows = rows_form(table)
        model.set_input_embeddings(rows)
        if isinstance(head, TiedHead):
            model.set_output_embeddings(_Times(rows))
        elif isinstance(head, PackedHead):
            model.set_output_embeddings(_Times(rows_form(head, head.bias)))


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


def export(
    model: Any, path: Path, *, length: int = 32, metadata: Mapping[str, str] | None = None
) -> OnnxFile:
    """Write a packed language model as ONNX: `input_ids` (batch, length) to `logits`.

    Integers with scales become `MatMulNBits` of 4 or 8 bits, which ONNX Runtime alone has. Codes
    and codebooks of other grids are 8-bit initializers and are decoded in the graph. ONNX Runtime
    folds that away when it opens a file, unless its optimizer "ConstantFolding" is switched off,
    which keeps memory at the size of the file. Layers with inputs of 8 bits
    multiply floats there: how a runtime rounds is its own affair.

    Args:
        model: as `zoo.load` returns it, in float32; its packed layers are replaced.
        path: the file to write.
        length: tokens of the example to export with; the file takes any length.
        metadata: stored in the file.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        MismatchError: the model cannot be exported or is too large, or ONNX Runtime computes
            something else.

    """
    onnx, runtime = packages("onnxscript")
    ids = torch.arange(2 * length).view(2, length) % model.config.vocab_size
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            layer.options = replace(layer.options, activations="float")
    with torch.no_grad():
        wanted = model(input_ids=ids, use_cache=False).logits
    _gather(model)
    proto = _converted(_Logits(model).eval(), ids)
    for node in proto.graph.node:  # the exporter leaves this machine's paths in stack traces
        del node.metadata_props[:]
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    if (size := proto.ByteSize()) > LIMIT:
        raise MismatchError(f"the ONNX file would have {size:,} bytes; the limit is {LIMIT:,}")
    onnx.checker.check_model(proto)
    fidelities = []
    for some in (ids, ids[:1, : length // 2 + 1]):
        right, outputs = wanted[: len(some), : some.shape[1]], _ran(runtime, proto, some)
        fidelities.append(faithful(type(model).__name__, [right], [outputs], what="ONNX Runtime"))
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return written(path, fidelities)


def _converted(module: nn.Module, ids: Tensor) -> Any:
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                (ids,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input_ids"],
                output_names=["logits"],
                dynamic_shapes=(dims,),
                optimize=False,  # it would fold the codes into float weights
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, from several packages
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MismatchError(f"cannot export the model to ONNX: {reason}") from error
    assert program is not None
    return program.model_proto


def _ran(runtime: Any, proto: Any, ids: Tensor) -> Tensor:
    """Return what ONNX Runtime computes with the codes unfolded."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(
        proto.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["ConstantFolding"],
    )
    return torch.from_numpy(session.run(["logits"], {"input_ids": ids.numpy()})[0])
