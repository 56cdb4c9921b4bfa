"""One opened network, on the CPU or on an NVIDIA GPU, and the ladder it steps down when memory runs short.

On a CPU the network runs in OpenVINO, in bf16 where the chip has it, and torch is never imported. On a GPU it runs in
torch, rebuilt from the card and the safetensors weights. Which of the two is not visible in the masks.

The ladder, each step told in a sentence: the window of the card; a window of half the size along each axis; then, from
a GPU, the same two on the CPU.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadModel, OutOfMemory, UserError
from engine.files import whole_file
from engine.model_card import NETWORK_XML, WEIGHTS, ModelCard
from engine.preprocessing import SIZE_STEP
from engine.registry import verify
from engine.volume import FloatArray

if TYPE_CHECKING:
    import torch
    from torch import nn

Device = Literal["auto", "cpu", "cuda"]
Window = tuple[int, int, int]

# In the weights' file, beside the weights: what else the network for a CPU consists of, such as axes to reduce over.
CONSTANTS = "openvino.constants"

# Below this the deepest layer of a network has too few voxels to normalise over.
_SMALLEST = 2 * SIZE_STEP


class Backend(Protocol):
    """One network in the memory of one device."""

    device: str
    precision: str

    def run(self, window: FloatArray) -> FloatArray:
        """Logits ``(R, i, j, k)`` float32 of ``(C, i, j, k)`` float32.

        Raises:
            MemoryError: The device has too little memory.
        """


@dataclass(frozen=True)
class _Rung:
    device: Literal["cpu", "cuda"]
    window: Window
    sentence: str


class Network:
    """A network that is ready to run.

    Args:
        card: The model.
        rungs: Ways to run it, the best first; the first that opens is taken.

    Attributes:
        card: The model.
        window: Voxels ``(i, j, k)`` it takes at once; smaller after `step_down`.
        fallbacks: One sentence for each step down the ladder so far, for the user.
    """

    def __init__(self, card: ModelCard, rungs: list[_Rung]) -> None:
        self.card = card
        self.fallbacks: list[str] = []
        self._rungs = rungs
        self._backend: Backend | None = None
        self._open()

    @property
    def window(self) -> Window:
        """Voxels ``(i, j, k)`` the network takes at once."""
        return self._rungs[0].window

    @property
    def device(self) -> str:
        """``"CPU"`` or ``"CUDA"``."""
        return self._opened.device

    @property
    def precision(self) -> str:
        """``"bf16"`` or ``"fp32"``: what the multiplications are done in."""
        return self._opened.precision

    def run(self, window: FloatArray) -> FloatArray:
        """Run the network once.

        Args:
            window: ``(C, i, j, k)`` float32, of the size of `window`, axes to the patient's right, front and head.

        Returns:
            Logits ``(R, i, j, k)`` float32, regions in the card's order.

        Raises:
            MemoryError: There is too little memory; `step_down`, then try again with the smaller window.
        """
        expected = (len(self.card.sequences), *self.window)
        if window.shape != expected:
            raise ValueError(f"the network takes {expected}, got {window.shape}")
        return self._opened.run(window)

    def step_down(self) -> None:
        """Go to the next rung of the memory ladder, and say so in `fallbacks`.

        Raises:
            OutOfMemory: There is no further rung.
        """
        self._backend = None
        gc.collect()  # what still holds the old network's memory must go before the next one asks for some
        _release_gpu_memory()
        if len(self._rungs) == 1:
            raise OutOfMemory(
                f"There is too little memory to run the {self.card.title}",
                f"even in windows of {' x '.join(map(str, self.window))} voxels",
                "Close other programs and try again.",
            )
        self._rungs = self._rungs[1:]
        self.fallbacks.append(self._rungs[0].sentence)
        self._open()

    @property
    def _opened(self) -> Backend:
        if self._backend is None:
            raise RuntimeError("the network was given up for lack of memory")
        return self._backend

    def _open(self) -> None:
        rung = self._rungs[0]
        memory_is_short = False
        try:
            if rung.device == "cuda":
                self._backend = TorchBackend(self.card, "cuda")
            else:
                self._backend = OpenVinoBackend(self.card, rung.window)
        except MemoryError:
            memory_is_short = True
        except RuntimeError:
            # A GPU too old for the installed torch, or a driver that does not fit it, shows only when it is used.
            if rung.device != "cuda":
                raise
            self._backend = None
        # Out here, since a caught exception keeps alive what it failed with.
        if memory_is_short:
            self.step_down()
        elif self._backend is None:
            self._rungs = [rung for rung in self._rungs if rung.device == "cpu"]
            self.fallbacks.append("The GPU could not be used, so the CPU was.")
            self._open()


def open_network(card: ModelCard, device: Device = "auto") -> Network:
    """Check a model's files and make its network ready to run.

    Args:
        card: The model, as read from its folder.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU where there is one that can be used.

    Raises:
        BadModel: A file of the model is missing, changed or cannot be used.
        UserError: A GPU was asked for and there is none that can be used.
        OutOfMemory: No rung of the memory ladder has room.
    """
    verify(card)
    obstacle = None if device == "cpu" else gpu_obstacle()
    if device == "cuda" and obstacle is not None:
        raise UserError("No GPU can be used here", obstacle, "Choose the CPU, or let Gliascope choose by itself.")
    on_gpu = device != "cpu" and obstacle is None
    return Network(card, _ladder(card.window, on_gpu=on_gpu))


def gpu_obstacle() -> str | None:
    """Why no NVIDIA GPU can be used, in a few words; ``None`` when one can.

    Asks the driver itself, since asking torch would import it.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None or not any((Path(spec.origin).parent / "lib").glob("*torch_cuda*")):
        return "the installed torch works on the CPU alone"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return None


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry; the only way Gliascope imports it, for running and for exporting.

    ``import openvino`` by itself reports the import to its makers and leaves an identifier in the user's home. With its
    telemetry module marked as absent it uses an empty stand-in, and nothing is sent or written.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own mark for "cannot be imported"
    return importlib.import_module("openvino")


def export(network: nn.Module, channels: int, window: Window, folder: Path) -> None:
    """Write a torch network into a model folder, for both backends; the card is written after it.

    Args:
        network: From `engine.networks.build`, with its final weights; left on the CPU in evaluation mode.
        channels: Number of input channels.
        window: Voxels ``(i, j, k)`` to trace it with; it will run on others too.
        folder: Receives ``network.xml`` and ``weights.safetensors``, weights in half precision, which halves the folder
            and moves no mask by a voxel in a thousand.

    Raises:
        CannotWrite: A file could not be written.
    """
    import torch

    openvino = import_openvino()
    network = network.float().cpu().eval()
    halves = {
        name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    network.load_state_dict(halves)
    with torch.no_grad(), warnings.catch_warnings():
        # torch warns about the way OpenVINO traces, and about sizes it takes for fixed; other sizes are tested.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(
            network, example_input=torch.zeros(1, channels, *window), input=[1, channels, -1, -1, -1]
        )
    store(model, {name: value.contiguous().numpy() for name, value in halves.items()}, folder)


def store(model: Any, weights: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """Write an OpenVINO model and its weights into a model folder, with one copy of the weights.

    OpenVINO writes a file of bytes and says in the network where in it each constant lies. The file of safetensors is
    bytes too, after a header: so each constant that equals a weight is looked up there, and the few that are no weights
    (some hundred bytes) are put beside them as one more tensor.

    Args:
        model: An ``openvino.Model``.
        weights: By the names further training knows them by; in half precision, as that is what OpenVINO writes. One
            that OpenVINO has changed, e.g. by folding two layers into one, is stored for it a second time.
        folder: Receives ``network.xml`` and ``weights.safetensors``.

    Raises:
        CannotWrite: A file could not be written.
    """
    from xml.etree import ElementTree

    from safetensors.numpy import save

    with tempfile.TemporaryDirectory(prefix="gliascope-") as scratch:
        import_openvino().save_model(model, Path(scratch) / "network.xml", compress_to_fp16=True)
        network = ElementTree.parse(Path(scratch) / "network.xml")
        written = (Path(scratch) / "network.bin").read_bytes()
    constants = [layer.find("data") for layer in network.iter("layer") if layer.get("type") == "Const"]
    places = [
        (place, int(place.get("offset", 0)), int(place.get("size", 0))) for place in constants if place is not None
    ]
    names = {weight.tobytes(): name for name, weight in weights.items()}
    others: dict[bytes, int] = {}
    beside = bytearray()
    for _, start, size in places:
        value = written[start : start + size]
        if value not in names and value not in others:
            others[value] = len(beside)
            beside += value
    tensors = dict(weights)
    if beside:
        tensors[CONSTANTS] = np.frombuffer(bytes(beside), dtype=np.uint8)
    stored = save(tensors)
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}
    for place, start, size in places:
        value = written[start : start + size]
        place.set("offset", str(starts[names[value]] if value in names else starts[CONSTANTS] + others[value]))
    with whole_file(folder / WEIGHTS) as partial:
        partial.write_bytes(stored)
    with whole_file(folder / NETWORK_XML) as partial:
        network.write(partial, encoding="utf-8", xml_declaration=True)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a model folder by their names in the network, for a GPU or for further training.

    Raises:
        OSError, SafetensorError: The file cannot be read.
    """
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    weights.pop(CONSTANTS, None)
    return weights


class OpenVinoBackend:
    """A network on the CPU.

    Args:
        card: The model.
        window: Voxels ``(i, j, k)`` to compile for.

    Raises:
        BadModel: The network's file cannot be used.
        MemoryError: There is too little memory.
    """

    device = "CPU"

    def __init__(self, card: ModelCard, window: Window) -> None:
        channels = len(card.sequences)
        core = import_openvino().Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bf16" if bf16 else "fp32"
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "CACHE_DIR": "",  # nothing is written to the user's disk
        }
        try:
            with _memory_errors():
                model = core.read_model(card.folder / NETWORK_XML, card.folder / WEIGHTS)
                # Exported without a size, so that any rung's fits; compiled for one, which is quicker.
                model.reshape([1, channels, *window])
                self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise _unusable(card, f"{NETWORK_XML} does not hold a network for {channels} sequences") from error

    def run(self, window: FloatArray) -> FloatArray:
        """See `Backend`."""
        with _memory_errors():
            # The copy is what stays: the request's own memory is overwritten by the next window.
            logits = self._request.infer({0: np.ascontiguousarray(window[None])})[0]
            return np.array(logits[0], dtype=np.float32)


class TorchBackend:
    """A network in torch, for a GPU; the CPU is for comparing the two.

    Args:
        card: The model.
        place: A torch device: ``"cuda"`` or ``"cpu"``.

    Raises:
        BadModel: The weights do not fit the architecture.
        MemoryError: The GPU has too little memory.
        RuntimeError: The GPU cannot be used.
    """

    def __init__(self, card: ModelCard, place: str) -> None:
        import torch
        from safetensors import SafetensorError

        from engine import networks

        self._torch = torch
        self._place = torch.device(place)
        on_gpu = self._place.type == "cuda"
        self.device = "CUDA" if on_gpu else "CPU"
        self.precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
        try:
            network = networks.build(card.architecture.name, dict(card.architecture.args))
            network.load_state_dict(read_weights(card.folder))
        except (RuntimeError, ValueError, TypeError, OSError, SafetensorError) as error:
            raise _unusable(card, f"{WEIGHTS} does not fit the architecture on its card") from error
        with _memory_errors():
            self._network = network.float().eval().to(self._place)
            torch.ones(1, device=self._place).add_(1)  # the first sum is where a GPU that cannot be used says so

    def run(self, window: FloatArray) -> FloatArray:
        """See `Backend`."""
        torch = self._torch
        with (
            _memory_errors(),
            torch.inference_mode(),
            torch.autocast(self._place.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            images = torch.from_numpy(np.ascontiguousarray(window))[None].to(self._place)
            logits: FloatArray = self._network(images)[0].float().cpu().numpy()
            return logits


def _ladder(window: Window, *, on_gpu: bool) -> list[_Rung]:
    i, j, k = (min(n, max(_SMALLEST, -(-n // (2 * SIZE_STEP)) * SIZE_STEP)) for n in window)
    smaller = f"smaller windows ({i} x {j} x {k} voxels) were used"
    rungs = [
        _Rung("cuda", window, ""),
        _Rung("cuda", (i, j, k), f"The GPU ran out of memory, so {smaller}."),
        _Rung("cpu", window, "The GPU ran out of memory, so the CPU was used."),
        _Rung("cpu", (i, j, k), f"Memory ran short on the CPU, so {smaller}."),
    ]
    if (i, j, k) == window:
        rungs = rungs[::2]
    return [rung for rung in rungs if on_gpu or rung.device == "cpu"]


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn every library's way of saying that memory ran out into `MemoryError`."""
    try:
        yield
    except RuntimeError as error:
        # torch's own class is a RuntimeError too; OpenVINO has none and says it in words.
        if any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise


_OUT_OF_MEMORY = (
    "out of memory",
    "bad_alloc",
    "bad alloc",
    "failed to allocate",
    "cannot allocate",
    "not enough memory",
)


def _release_gpu_memory() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _unusable(card: ModelCard, reason: str) -> BadModel:
    # What the libraries say goes on as the cause, for a report; it names their sources, and nobody can mend those.
    return BadModel(f"The network of the {card.title} cannot be used", reason, "Get the model again from its source.")
