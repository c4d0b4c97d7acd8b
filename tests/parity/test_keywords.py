"""Networks that hear: the published counts, front ends against the published features and words."""

import io
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.data import frontends, sound
from zoo.deploy.tflite import export_tflite, load_tflite
from zoo.graph.lower import lower
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.tasks.keyword_spotting.clips import features
from zoo.tasks.keyword_spotting.heard import hissing

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/micronets.toml").read_text())
MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "kws-s": (lambda: build(find("micronet-kws-s")), (1, 1, 49, 10)),
    "kws-m": (lambda: build(find("micronet-kws-m")), (1, 1, 49, 10)),
    "kws-l": (lambda: build(find("micronet-kws-l")), (1, 1, 49, 10)),
    "vww-4": (lambda: build(find("micronet-vww-4")), (1, 1, 128, 128)),
    "mlperf-kws": (lambda: build(find("mlperf-tiny-kws")), (1, 1, 49, 10)),
    "ad-s": (lambda: build(find("micronet-ad-s")), (1, 1, 32, 32)),
    "ad-m": (lambda: build(find("micronet-ad-m")), (1, 1, 32, 32)),
    "ad-l": (lambda: build(find("micronet-ad-l")), (1, 1, 32, 32)),
    "mlperf-ad": (lambda: build(find("mlperf-tiny-ad")), (1, 640)),
    "mlperf-sww": (lambda: build(find("mlperf-tiny-sww")), (1, 40, 30, 1)),
}
FILES = {
    "kws-m": ("micronet_kws_m_int8", "mfcc-micronets", np.rint),
    "mlperf-kws": ("mlperf_kws_int8", "mfcc-mlperf", np.trunc),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_counts_are_the_published_ones(name: str) -> None:
    make, shape = MAKERS[name]
    network = make().eval()
    golden, kinds = GOLDEN[name], {"weights": 0, "biases": 0}
    for key, value in network.named_parameters():
        kinds["biases" if key.endswith("bias") else "weights"] += value.numel()
    assert kinds == {key: golden[key] for key in kinds}
    assert round(2 * lower(network, shape).macs / 1e6, 1) == golden["mops"]
    if "published" in golden:
        state = network.trainable().state_dict()  # type: ignore[operator]
        kept = [v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked")]
        assert sum(kept) == golden["published"]


@pytest.mark.parametrize("name", ["kws-s", "mlperf-ad", "vww-4"])
def test_the_deployed_form_is_the_trained_one(name: str) -> None:
    make, shape = MAKERS[name]
    torch.manual_seed(0)
    form = make().trainable()  # type: ignore[operator]
    x = torch.rand(4, *shape[1:])
    for _ in range(3):  # statistics that matter
        form(x)
    form.eval()
    assert torch.allclose(form.deployed()(x), form(x), atol=1e-4)


@pytest.fixture(scope="module")
def words(shared_data: Path) -> tuple[Tensor, list[str]]:
    """A thousand clips of Speech Commands, at full scale, and their labels."""
    with zipfile.ZipFile(shared_data / "speech-commands-12/kws01_wav.zip") as archive:
        names = sorted(archive.namelist(), key=lambda name: name.split("/")[1])
        waves = [_wave(archive.read(name)) for name in names]
    clips = frontends.at_full_scale(torch.from_numpy(np.stack(waves)))
    return clips, [name.split("/")[0] for name in names]


def _wave(content: bytes) -> sound.Wave:
    import soundfile

    wave: sound.Wave = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    return wave


@pytest.mark.data
def test_the_front_end_of_mlperf_gives_its_published_features(
    shared_data: Path, words: tuple[Tensor, list[str]]
) -> None:
    found = frontends.named("mfcc-mlperf")(words[0])[:, 0].numpy()
    integers = np.clip(np.trunc(found / 0.5847029 + 83), -128, 127)
    published = np.load(shared_data / "kws01/kws01_mfcc_int8.npz")["x"][..., 0].astype(int)
    off = np.abs(integers - published)
    assert (off == 0).mean() >= 0.95
    assert (off <= 1).mean() >= 0.965


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("kws-m", 0.950), ("mlperf-kws", 0.898)])
def test_published_files_hear_words_through_their_own_front_ends(
    shared_data: Path, words: tuple[Tensor, list[str]], name: str, least: float
) -> None:
    file, front, rounded = FILES[name]
    network = load_tflite(shared_data / "tflite" / f"{file}.tflite")
    source = network.graph.tensors[network.graph.inputs[0]].quantization
    assert source is not None
    features = frontends.named(front)(words[0]).permute(0, 2, 3, 1).numpy()
    integers = rounded(features / source.scales[0] + source.zero_points[0])
    inputs = torch.from_numpy(np.clip(integers, -128, 127).astype(np.int8))
    with torch.inference_mode():
        scores = torch.cat([network(x[None]).flatten(1) for x in inputs])
    said = [_published_order(name)[k] for k in scores.argmax(1).tolist()]
    assert np.mean([a == b for a, b in zip(said, words[1], strict=True)]) >= least


@pytest.mark.data
def test_real_people_are_understood_by_what_heard_synthetic_voices_only(
    words: tuple[Tensor, list[str]],
) -> None:
    """The shipped weights give the figure of their card, through the front end they name."""
    made = zoo.checkpoint("micronet-kws-s.synthetic")
    heard = features(hissing(words[0], made.recipe), made.recipe)
    with torch.inference_mode():
        said = zoo.load("micronet-kws-s.synthetic")(heard).argmax(1).tolist()
    labels = made.recipe.preprocessing["labels"]
    right = np.mean([labels[a] == b for a, b in zip(said, words[1], strict=True)])
    assert right == pytest.approx(
        made.metrics["evaluations"]["Speech Commands"]["accuracy"], abs=2e-3
    )
    assert right >= 0.80


def _published_order(name: str) -> list[str]:
    return list(find("micronet-kws-m").preprocessing["labels"])


@pytest.mark.parametrize("name", sorted(frontends.FRONT_ENDS))
def test_frames_are_the_same_numbers_whatever_stands_beside_them(name: str) -> None:
    front = frontends.named(name)
    wave = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32))
    whole = front(wave[None])[0, 0]
    assert whole.shape == (front.frames(16000), front.width)
    for first, last in ((0, 1), (7, 9), (20, 41)):
        part = wave[first * front.hop : (last - 1) * front.hop + front.window]
        before = wave[None, first * front.hop - 1, None] if first else None
        assert torch.equal(front(part[None], before)[0, 0], whole[first:last])


@pytest.mark.parametrize("name", ["log-mel-micronets", "log-mel-mlperf"])
def test_energies_in_db_are_those_of_librosas_formula(name: str) -> None:
    """As transformers has it: librosa's filters, and its spectra without padding."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    front = frontends.named(name)
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    wave[8000:] = 0  # the floor
    filters = mel_filter_bank(513, front.bands, 0, 8000, 16000, norm="slaney", mel_scale="slaney")
    energies = spectrogram(
        wave, window_function(1024, "hann", periodic=True), 1024, 512, power=2.0, center=False,
        mel_filters=filters, mel_floor=0.0,
    )  # fmt: skip
    found = front(torch.from_numpy(wave)[None])[0, 0].numpy().T
    assert np.abs(found - 10 * np.log10(energies + np.finfo(np.float64).eps)).max() < 1e-4
    assert found.min() == pytest.approx(-156.5, abs=0.1)


def test_the_cosine_transform_is_scipys() -> None:
    from scipy.fft import dct

    front = frontends.named("mfcc-micronets")
    bands = np.random.default_rng(1).normal(size=(5, front.bands))
    expected = dct(bands, type=2, axis=1) / np.sqrt(2 * front.bands)
    found = bands @ frontends._cosines(front).numpy()
    assert np.allclose(found, expected[:, : front.coefficients])


@pytest.mark.parametrize(
    ("name", "least_db"), [("kws-s", 25), ("mlperf-sww", 25), ("mlperf-ad", 25), ("vww-4", 10)]
)
def test_files_are_written_and_open_everywhere(name: str, least_db: float, tmp_path: Path) -> None:
    make, shape = MAKERS[name]
    torch.manual_seed(0)
    network = make().eval()
    shape = (1, 1, 32, 32) if name == "vww-4" else shape
    data = [torch.rand(8, *shape[1:])]
    assert export_tflite(network, tmp_path / "a.tflite", shape, data).snr_db > least_db
