"""The work of a batch on a Dask cluster that is there already.

A patient is a task. It writes into a private folder of the worker and gives back the outputs themselves, a megabyte or
so, so that the workers need to read the scans where the batch found them and nothing else; whoever runs the batch gives
them their names. Of a worker that dies Dask gives the patient to another one.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import provenance
from engine.batch_plan import Patient, Settings
from engine.batch_work import Message, segment_one, sentence_of
from engine.errors import Cancelled, UserError
from engine.progress import Progress

if TYPE_CHECKING:
    from engine.flow import Models

_CONNECT_SECONDS = 5
_WORKERS_SECONDS = 30
_LOOK_SECONDS = 2.0
_TELL_SECONDS = 0.5
# A patient that waits at a worker, so that the worker never waits for one.
_AHEAD = 1


class Cluster:
    """The workers of a Dask cluster.

    Args:
        settings: For all patients.
        messages: Gets what becomes of them.
        address: Of the scheduler.
        progress: Checked while the cluster is waited for.

    Raises:
        UserError: Dask is not installed here, the scheduler does not answer, or it has no workers.
        Cancelled: Asked to stop.
    """

    def __init__(
        self, settings: Settings, messages: queue.SimpleQueue[Message], address: str, progress: Progress
    ) -> None:
        self._settings, self._messages = settings, messages
        self._client = _connect(address)
        self._topic = f"gliascope-{secrets.token_hex(6)}"
        self._futures: dict[str, Any] = {}
        self._workers, self._looked = 0, 0.0
        self._expected = _models_here()
        self._client.subscribe_topic(self._topic, self._hear)
        try:
            self._wait_for_workers(address, progress)
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        """See `engine.batch.Hands`."""
        return self._count() * (1 + _AHEAD) - len(self._futures)

    def begin(self, patient: Patient, into: Path) -> None:
        """See `engine.batch.Hands`."""
        future = self._client.submit(
            work_there,
            patient.to_json(),
            self._settings.to_json(),
            self._expected,
            self._topic,
            key=f"{self._topic}-{len(self._futures)}-{secrets.token_hex(4)}",
            pure=False,
        )
        self._futures[patient.name] = future
        future.add_done_callback(lambda done: self._ended(patient.name, done))

    def pause(self, paused: bool) -> None:
        """Nothing new is begun; what the cluster works on already it brings to its end."""

    def close(self) -> None:
        """See `engine.batch.Hands`."""
        futures, self._futures = dict(self._futures), {}
        with suppress(Exception), _quiet():
            self._client.cancel(list(futures.values()), force=True)
        with suppress(Exception), _quiet():
            self._client.close(timeout=2)

    def _wait_for_workers(self, address: str, progress: Progress) -> None:
        until = time.monotonic() + _WORKERS_SECONDS
        while not self._count():
            if time.monotonic() > until:
                raise UserError(f"The cluster at {address} has no workers", "", "Start some, then go on.")
            progress.check()
            time.sleep(0.2)
            self._looked = 0.0

    def _count(self) -> int:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            if self._client.status not in ("running", "connecting"):
                raise UserError(
                    "The cluster's scheduler cannot be reached any more", "", "Go on with the batch when it is back."
                )
            with suppress(OSError, TimeoutError):
                self._workers = len(self._client.nthreads())
            self._looked = time.monotonic()
        return self._workers

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        told = event[1]
        if told["name"] in self._futures:
            self._messages.put(Message(told["kind"], told["name"], told["fraction"], told["text"]))

    def _ended(self, name: str, future: Any) -> None:
        if name not in self._futures or self._futures[name] is not future:
            return
        try:
            answer = future.result(timeout=_CONNECT_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever a task or the cluster raises must not lose the patient
            del self._futures[name]
            self._messages.put(Message("lost", name, text=_why(error)))
            return
        del self._futures[name]
        if "failed" in answer:
            self._messages.put(Message("failed", name, text=answer["failed"]))
        else:
            self._messages.put(Message("done", name, 1.0, row=answer["row"], files=answer["files"]))


def work_there(
    patient: Mapping[str, Any], settings: Mapping[str, Any], expected: Mapping[str, str], topic: str
) -> dict[str, Any]:
    """A patient's task, in a process of the cluster.

    Returns:
        ``row`` and ``files`` (names and bytes of all outputs), or ``failed`` and a sentence.
    """
    from distributed import get_worker

    from engine.workshop import Workshop

    worker = get_worker()
    key = worker.get_current_task()
    who = Patient.from_json(patient)
    told = 0.0

    def tell(kind: str, fraction: float, text: str) -> None:
        worker.log_event(topic, {"kind": kind, "name": who.name, "fraction": fraction, "text": text})

    def hear(fraction: float, message: str) -> None:
        nonlocal told
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Cancelled
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            tell("progressed", fraction, message)

    with _ONE_AT_A_TIME:
        tell("started", 0.0, "")
        try:
            _compare_models(expected)
            wanted = Settings.from_json(settings)
            with Workshop() as workshop:
                folder = workshop.new_folder()
                row = segment_one(who, wanted, _models(wanted.model, wanted.device), folder, Progress(hear))
                return {"row": row, "files": {file.name: file.read_bytes() for file in folder.iterdir()}}
        except (UserError, MemoryError, OSError) as error:
            return {"failed": sentence_of(error)}


# A network computes one window at a time, with all the processor cores there are.
_ONE_AT_A_TIME = threading.Lock()


@lru_cache(maxsize=2)
def _models(name: str, device: Any) -> Models:
    from engine.flow import Models

    return Models(name or None, device)


def _models_here() -> dict[str, str]:
    """What results depend on besides scans and settings: the release, and the models with their hashes."""
    from engine import registry

    return {"": provenance.version(), **{card.name: card.fingerprint for card in registry.list_models().models}}


def _compare_models(expected: Mapping[str, str]) -> None:
    here = _models_here()
    if here == expected:
        return
    what = "release of Gliascope" if here[""] != expected[""] else "models"
    raise UserError(
        f"A worker of the cluster has other {what} than this machine"
        if what == "models"
        else f"A worker of the cluster has another {what} than this machine",
        "",
        "Bring it to the state of this one, then try again.",
    )


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError(
            "A Dask cluster needs dask and distributed, which are not installed yet",
            "",
            "Run: python3 start.py --install cluster",
        ) from error
    try:
        with _quiet():
            return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise UserError(
            f"No Dask scheduler answers at {address}", "", "Check the address, such as tcp://host:8786."
        ) from error


def _why(error: BaseException) -> str:
    kind = type(error).__name__
    if kind == "KilledWorker":
        return "died on several workers of the cluster"
    if kind in ("CancelledError", "FutureCancelledError", "FuturesCancelledError", "TimeoutError", "CommClosedError"):
        return "was lost by the cluster"
    return f"ended unexpectedly ({kind})"


class _quiet:  # noqa: N801 - reads as the function that it stands for
    """Keeps Dask's log of connections that end, which we tell in our own words."""

    def __enter__(self) -> None:
        self._log = logging.getLogger("distributed")
        self._level = self._log.level
        self._log.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._log.setLevel(self._level)
