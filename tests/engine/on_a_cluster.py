"""A batch on a Dask cluster of two processes, one of which is killed.

``python -m tests.engine.on_a_cluster OUT [COHORT]``; with a cohort a batch of it is begun in OUT first.

A program of its own, as Dask's threads outlive their cluster. Prints what became of it in JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import psutil
from distributed import LocalCluster

from engine.batch import Batch, Event, Progressed
from engine.batch_plan import plan


def main() -> None:
    """Carry the batch out."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    out = Path(sys.argv[1])
    going = Batch.create(plan([Path(sys.argv[2])]), out) if len(sys.argv) > 2 else Batch.open(out)
    killed: list[str] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        computing = {worker.process.process.pid for worker in cluster.workers.values()}

        def hear(event: Event) -> None:
            if isinstance(event, Progressed) and not killed:
                # The one with more of its processor's time behind it is at work on somebody.
                busy = max(map(psutil.Process, computing), key=lambda process: process.cpu_times().user)
                busy.kill()
                killed.append(event.name)

        going.run(hear, scheduler=cluster.scheduler_address)
    print(json.dumps({"killed": killed, "states": [row.state.value for row in going.rows]}))  # noqa: T201


if __name__ == "__main__":
    main()
