"""llama.cpp beside ours: a GGUF file in Q4_0 made from another one, and its tokens per second.

The package is xllamacpp, a wheel of llama.cpp: pip install xllamacpp. It runs in a process of its
own, so that its threads and ours do not wait for each other.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

SCRIPT = """
import json, sys
import xllamacpp

file, threads = sys.argv[1], int(sys.argv[2])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = file, 512, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.warmup = True
server = xllamacpp.Server(params)
print("ready", flush=True)
for line in sys.stdin:
    ask = {"prompt": list(range(1, 9)), "n_predict": int(line), "temperature": 0.0,
           "ignore_eos": True, "cache_prompt": False}
    answer = server.handle_completions(ask)
    answer = answer if isinstance(answer, dict) else json.loads(answer)
    print(json.dumps(answer["timings"]), flush=True)
"""


class LlamaCpp:
    """llama.cpp with one model, asked in turn with others.

    Args:
        file: a GGUF file.
        threads: how many.

    """

    def __init__(self, file: Path, threads: int) -> None:
        words = [sys.executable, "-c", SCRIPT, str(file), str(threads)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self._read("ready")

    def tokens_per_second(self, tokens: int) -> float:
        """Return the speed of generating `tokens` after a prompt of eight."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{tokens}\n")
        self.process.stdin.flush()
        return float(json.loads(self._read("{"))["predicted_per_second"])

    def _read(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        raise SystemExit("llama.cpp ended: is xllamacpp installed, and the file a GGUF file?")

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def q4_0(source: Path, out: Path) -> Path:
    """Write a GGUF file's matrices in Q4_0, the embedding (and tied head) in Q8_0; return `out`."""
    reader = gguf.GGUFReader(source)
    name = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, name)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        rows = tensor.name in ("token_embd.weight", "output.weight")
        kind = gguf.GGMLQuantizationType.Q8_0 if rows else gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
