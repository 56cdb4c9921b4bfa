from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import inference, networks, runtime
from engine.errors import BadModel, OutOfMemory, UserError
from engine.model_card import Architecture, ModelCard
from engine.volume import FloatArray, Grid, Sequence, Subject, Volume
from tests.engine import tiny_models

FOUR = tuple(Sequence)
UNET = Architecture("folded_unet", {"inputs": 4, "regions": 2, "filters": [8, 16], "blocks": [1, 1]})
DOUBLED = Architecture("doubled")


def run_python(code: str, *arguments: str, home: Path | None = None) -> str:
    """What a fresh interpreter prints."""
    environment = dict(os.environ)
    if home is not None:
        environment |= dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA"), str(home))
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    torch.manual_seed(3)
    network = networks.build(UNET.name, dict(UNET.args))
    card = tiny_models.make_card(FOUR, architecture=UNET, window=(48, 64, 48))
    return tiny_models.install(tmp_path_factory.mktemp("models") / card.name, network, card)


@pytest.fixture(scope="module")
def window() -> FloatArray:
    return np.random.default_rng(5).standard_normal((4, 48, 64, 48)).astype(np.float32)


def test_the_cpu_runs_a_network_as_torch_does(unet: ModelCard, window: FloatArray) -> None:
    network = runtime.open_network(unet, "cpu")
    assert network.device == "CPU"
    assert network.precision in ("bf16", "fp32")
    assert network.window == (48, 64, 48)
    assert network.fallbacks == []
    logits = network.run(window)
    assert logits.shape == (2, 48, 64, 48)
    assert logits.dtype == np.float32
    reference = runtime.TorchBackend(unet, "cpu")
    assert (reference.device, reference.precision) == ("CPU", "fp32")
    expected = reference.run(window)
    # bf16 keeps eight bits; what that does to masks is tested on whole subjects.
    assert np.abs(logits - expected).mean() < 0.02 * expected.std()
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.999


def test_a_second_run_does_not_overwrite_the_first_result(unet: ModelCard, window: FloatArray) -> None:
    network = runtime.open_network(unet, "cpu")
    first = network.run(window)
    kept = first.copy()
    network.run(-window)
    np.testing.assert_array_equal(first, kept)


def test_mirrored_views_are_run_as_what_they_show(unet: ModelCard, window: FloatArray) -> None:
    network = runtime.open_network(unet, "cpu")
    mirrored = window[:, ::-1]
    np.testing.assert_array_equal(network.run(mirrored), network.run(mirrored.copy()))
    reference = runtime.TorchBackend(unet, "cpu")
    np.testing.assert_array_equal(reference.run(mirrored), reference.run(mirrored.copy()))


def test_a_window_of_another_size_is_refused(unet: ModelCard, window: FloatArray) -> None:
    with pytest.raises(ValueError, match="the network takes"):
        runtime.open_network(unet, "cpu").run(window[:, :32])


@pytest.mark.gpu
def test_a_gpu_says_what_the_cpu_says(unet: ModelCard, window: FloatArray) -> None:
    obstacle = runtime.gpu_obstacle()
    if obstacle is not None:
        pytest.skip(f"needs an NVIDIA GPU: {obstacle}")
    network = runtime.open_network(unet, "cuda")
    assert network.device == "CUDA"
    expected = runtime.TorchBackend(unet, "cpu").run(window)
    assert np.abs(network.run(window) - expected).mean() < 0.02 * expected.std()


def test_asking_for_a_gpu_that_is_not_there_says_why(unet: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "gpu_obstacle", lambda: "no NVIDIA driver is installed")
    with pytest.raises(UserError, match=r"No GPU can be used here \(no NVIDIA driver is installed\)\. Choose the CPU"):
        runtime.open_network(unet, "cuda")
    assert runtime.open_network(unet, "auto").device == "CPU"


def test_looking_for_a_gpu_does_not_import_torch() -> None:
    code = (
        "import sys; from engine import runtime; runtime.gpu_obstacle();"
        "print(sorted({'torch', 'openvino'} & set(sys.modules)))"
    )
    assert run_python(code) == "[]"


# One copy of the weights


def conv(weight: FloatArray) -> object:
    """An OpenVINO model of one convolution."""
    openvino = runtime.import_openvino()
    opset = openvino.opset13
    images = opset.parameter([1, weight.shape[1], -1, -1, -1], np.float32, name="images")
    nothing = [0, 0, 0]
    mixed = opset.convolution(images, opset.constant(weight), [1, 1, 1], nothing, nothing, [1, 1, 1])
    return openvino.Model([mixed], [images], "conv")


def test_the_weights_lie_in_the_folder_once_and_both_read_them(unet: ModelCard) -> None:
    sizes = {path.name: path.stat().st_size for path in unet.folder.iterdir() if path.name != "model.json"}
    network = networks.build(UNET.name, dict(UNET.args))
    halves = 2 * sum(value.numel() for value in network.state_dict().values())
    assert set(sizes) == {"network.xml", "weights.safetensors"}
    assert sizes["weights.safetensors"] < halves + 8_000, "each weight once, a header and the few other constants"
    assert set(runtime.read_weights(unet.folder)) == set(network.state_dict())
    network.load_state_dict(runtime.read_weights(unet.folder), strict=True)


def test_a_network_gives_the_same_bits_as_openvinos_own_two_files(
    unet: ModelCard, window: FloatArray, tmp_path: Path
) -> None:
    openvino = runtime.import_openvino()
    core = openvino.Core()
    ours = core.read_model(unet.folder / "network.xml", unet.folder / "weights.safetensors")
    openvino.save_model(ours, tmp_path / "network.xml", compress_to_fp16=True)
    theirs = core.read_model(tmp_path / "network.xml")
    said = [core.compile_model(model, "CPU")({0: window[None]})[0] for model in (ours, theirs)]
    assert said[0].std() > 0
    np.testing.assert_array_equal(said[0], said[1])


def test_a_weight_that_openvino_stores_otherwise_is_stored_for_it_as_well(tmp_path: Path, window: FloatArray) -> None:
    weight = np.random.default_rng(1).standard_normal((2, 4, 1, 1, 1)).astype(np.float16)
    runtime.store(conv(weight.astype(np.float32)), {"turned": weight[::-1].copy()}, tmp_path)
    np.testing.assert_array_equal(runtime.read_weights(tmp_path)["turned"].numpy(), weight[::-1])
    model = runtime.import_openvino().Core().read_model(tmp_path / "network.xml", tmp_path / "weights.safetensors")
    found = runtime.import_openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = np.einsum("rc,cijk->rijk", weight[:, :, 0, 0, 0].astype(np.float32), window)
    np.testing.assert_allclose(found({0: window[None]})[0][0], expected, atol=1e-4)


def test_exporting_twice_gives_the_same_bytes(unet: ModelCard, tmp_path: Path) -> None:
    network = networks.build(UNET.name, dict(UNET.args))
    network.load_state_dict(runtime.read_weights(unet.folder))
    runtime.export(network, 4, unet.window, tmp_path)
    again = (tmp_path / "weights.safetensors").read_bytes()
    assert again == (unet.folder / "weights.safetensors").read_bytes()


# Models that cannot be opened


def test_a_changed_network_is_not_opened(unet: ModelCard, tmp_path: Path) -> None:
    card = tiny_models.arithmetic(tmp_path / "m", lambda x: x[:, :2], tiny_models.make_card(FOUR))
    (card.folder / "weights.safetensors").write_bytes(b"something else")
    with pytest.raises(BadModel, match=r"weights\.safetensors of the .* is not the file"):
        runtime.open_network(card, "cpu")


@pytest.mark.parametrize("text", [b"", b"not a network", b"<net></net>"])
def test_a_file_that_is_no_network_is_one_plain_sentence(
    tmp_path: Path, text: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    card = tiny_models.arithmetic(tmp_path / "m", lambda x: x[:, :2], tiny_models.make_card((Sequence.T1, Sequence.T2)))
    (card.folder / "network.xml").write_bytes(text)
    card = card.write(card.folder)
    with pytest.raises(BadModel) as caught:
        runtime.open_network(card, "cpu")
    assert str(caught.value) == (
        "The network of the T1 + T2 student cannot be used (network.xml does not hold a network for 2 sequences). "
        "Get the model again from its source."
    )


def test_a_network_for_other_sequences_is_refused(unet: ModelCard) -> None:
    with pytest.raises(BadModel, match="does not hold a network for 2 sequences"):
        runtime.open_network(replace(unet, sequences=FOUR[:2]), "cpu")


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("perceptron"),
        Architecture("folded_unet", {"inputs": 3}),
        Architecture("folded_unet", {"colour": "blue"}),
    ],
)
def test_weights_of_another_architecture_are_refused(unet: ModelCard, architecture: Architecture) -> None:
    with pytest.raises(BadModel, match=r"weights\.safetensors does not fit the architecture on its card"):
        runtime.TorchBackend(replace(unet, architecture=architecture), "cpu")


def test_weights_that_are_none_are_refused(unet: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadModel, match=r"weights\.safetensors does not fit"):
        runtime.TorchBackend(replace(unet, folder=tmp_path), "cpu")


# The memory ladder


class Fake:
    """A backend whose memory holds windows up to a size."""

    precision = "fp32"

    def __init__(self, device: str, window: tuple[int, int, int], room: int) -> None:
        self.device = device
        self.voxels = int(np.prod(window))
        self.room = room

    def run(self, window: FloatArray) -> FloatArray:
        if window[0].size > self.room:
            raise MemoryError("out of memory")
        return window[:2]


Fit = Callable[[int, int], None]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Say how many voxels fit on the GPU and on the CPU."""

    def fit(gpu: int, cpu: int) -> None:
        monkeypatch.setattr(runtime, "verify", lambda card: None)
        monkeypatch.setattr(runtime, "gpu_obstacle", lambda: None)
        monkeypatch.setattr(runtime, "TorchBackend", lambda card, place: Fake("CUDA", card.window, gpu))
        monkeypatch.setattr(runtime, "OpenVinoBackend", lambda card, window: Fake("CPU", window, cpu))

    return fit


def run_until_it_fits(network: runtime.Network) -> None:
    while True:
        try:
            network.run(np.zeros((4, *network.window), dtype=np.float32))
            break
        except MemoryError:
            network.step_down()


CARD = tiny_models.make_card(FOUR, window=(80, 96, 80))
WHOLE, HALF, NONE = 80 * 96 * 80, 48 * 48 * 48, 0
SMALLER_ON_GPU = "The GPU ran out of memory, so smaller windows (48 x 48 x 48 voxels) were used."
TO_CPU = "The GPU ran out of memory, so the CPU was used."
SMALLER_ON_CPU = "Memory ran short on the CPU, so smaller windows (48 x 48 x 48 voxels) were used."


@pytest.mark.parametrize(
    ("gpu", "cpu", "device", "sentences"),
    [
        (WHOLE, NONE, "CUDA", []),
        (HALF, NONE, "CUDA", [SMALLER_ON_GPU]),
        (NONE, WHOLE, "CPU", [SMALLER_ON_GPU, TO_CPU]),
        (NONE, HALF, "CPU", [SMALLER_ON_GPU, TO_CPU, SMALLER_ON_CPU]),
    ],
)
def test_each_rung_is_taken_and_told(memory: Fit, gpu: int, cpu: int, device: str, sentences: list[str]) -> None:
    memory(gpu, cpu)
    network = runtime.open_network(CARD, "auto")
    run_until_it_fits(network)
    assert network.device == device
    assert network.fallbacks == sentences


def test_without_a_gpu_the_ladder_is_the_cpus(memory: Fit) -> None:
    memory(WHOLE, HALF)
    network = runtime.open_network(CARD, "cpu")
    run_until_it_fits(network)
    assert network.device == "CPU"
    assert network.fallbacks == [SMALLER_ON_CPU]


def test_the_end_of_the_ladder_is_one_plain_sentence(memory: Fit) -> None:
    memory(NONE, NONE)
    network = runtime.open_network(CARD, "auto")
    with pytest.raises(OutOfMemory, match=r"There is too little memory to run the .* Close other programs"):
        run_until_it_fits(network)


def test_a_network_that_does_not_even_load_goes_down_at_once(memory: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(WHOLE, WHOLE)

    def full(card: ModelCard, place: str) -> Fake:
        raise MemoryError

    monkeypatch.setattr(runtime, "TorchBackend", full)
    network = runtime.open_network(CARD, "auto")
    assert network.device == "CPU"
    assert network.fallbacks == [SMALLER_ON_GPU, TO_CPU]


def test_a_gpu_that_cannot_be_used_after_all_leaves_it_to_the_cpu(memory: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(WHOLE, HALF)

    def too_old(card: ModelCard, place: str) -> Fake:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(runtime, "TorchBackend", too_old)
    network = runtime.open_network(CARD, "auto")
    assert network.fallbacks == ["The GPU could not be used, so the CPU was."]
    run_until_it_fits(network)
    assert network.device == "CPU"
    assert network.fallbacks[1:] == [SMALLER_ON_CPU]


def test_memory_is_free_again_before_the_next_rung_asks_for_some(memory: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(NONE, WHOLE)
    network = runtime.open_network(CARD, "auto")
    first = weakref.ref(network._opened)
    held: list[bool] = []
    monkeypatch.setattr(runtime, "_release_gpu_memory", lambda: held.append(first() is not None))
    grid = Grid((60, 70, 60), np.eye(4))
    subject = Subject("x", {s: Volume(np.ones(grid.shape, np.float32), grid, s) for s in FOUR})
    found = inference.segment(subject, CARD, network=network)
    assert found.notes[:2] == (SMALLER_ON_GPU, TO_CPU)
    assert held == [False, False]


def test_a_window_that_cannot_be_halved_has_no_such_rung(memory: Fit) -> None:
    memory(NONE, NONE)
    network = runtime.open_network(replace(CARD, window=(32, 32, 16)), "auto")
    with pytest.raises(OutOfMemory):
        run_until_it_fits(network)
    assert network.fallbacks == [TO_CPU]


def test_torch_out_of_memory_is_recognised(unet: ModelCard, window: FloatArray) -> None:
    backend = runtime.TorchBackend(unet, "cpu")

    def full(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    backend._network = full
    with pytest.raises(MemoryError):
        backend.run(window)


def test_other_failures_of_a_library_are_not_taken_for_it(unet: ModelCard, window: FloatArray) -> None:
    backend = runtime.TorchBackend(unet, "cpu")

    def broken(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("illegal instruction")

    backend._network = broken
    with pytest.raises(RuntimeError, match="illegal instruction"):
        backend.run(window)


def test_a_real_network_runs_in_smaller_windows(unet: ModelCard) -> None:
    network = runtime.open_network(unet, "cpu")
    network.step_down()
    assert network.window == (32, 32, 32)
    assert network.run(np.zeros((4, 32, 32, 32), dtype=np.float32)).shape == (2, 32, 32, 32)


# Quiet


def test_openvino_never_reports_home(unet: ModelCard, tmp_path: Path) -> None:
    # An audit hook sees every socket Python opens and every address it looks up, also in OpenVINO's own Python code.
    code = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("socket.", "urllib.")) else None)
import numpy as np
from pathlib import Path
from engine import runtime
from engine.model_card import ModelCard
network = runtime.open_network(ModelCard.read(Path(sys.argv[1])), "auto")
network.run(np.zeros((4, 48, 64, 48), np.float32))
import threading
print(seen, [t.name for t in threading.enumerate() if t is not threading.main_thread()])
"""
    home = tmp_path / "home"
    home.mkdir()
    assert run_python(code, str(unet.folder), home=home) == "[] []"
    assert list(home.iterdir()) == [], "nothing is left in the user's home"


def test_exporting_never_reports_home_either(tmp_path: Path) -> None:
    code = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from pathlib import Path
from engine import networks, runtime
network = networks.build("folded_unet", {"inputs": 1, "filters": [8], "blocks": [1]})
runtime.export(network, 1, (16, 16, 16), Path(sys.argv[1]))
print(seen)
"""
    home, folder = tmp_path / "home", tmp_path / "model"
    home.mkdir()
    folder.mkdir()
    assert run_python(code, str(folder), home=home).splitlines()[-1] == "[]"
    assert not (home / "intel").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["network.xml", "weights.safetensors"]
