"""The page of results on batches: each part is written by the script that measures it."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

_EMPTY = """# Batches

Each part is written by the command above its table, and by nothing else. Patients of the cohort are never shown.

## As quick as the machine allows

```
python -m benchmarks.batch_speed COHORT --patients 40 --page docs/results/batch.md
```

<!-- throughput -->
<!-- end -->

## Killed at any moment

```
python -m scripts.kill_batch COHORT --kills 30 --page docs/results/batch.md
```

<!-- kills -->
<!-- end -->

## As much memory for 500 patients as for one

```
python -m scripts.batch_memory --patients 500 --page docs/results/batch.md
```

<!-- memory -->
<!-- end -->
"""


def put(page: Path, part: str, text: str) -> None:
    """Replace one part of the page, which is made where it is not there yet."""
    before = page.read_text(encoding="utf-8") if page.exists() else _EMPTY
    pattern = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(before):
        raise SystemExit(f"{page} has no part {part}")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", before), encoding="utf-8")


def machine() -> str:
    """Cores and how busy others keep them, as a clause: what a table of seconds has to say."""
    load = os.getloadavg()[0]
    day = time.strftime("%Y-%m-%d")
    busy = "otherwise idle" if load < 0.5 else f"load {load:.1f} at the end"
    return f"{os.cpu_count()} processor cores, {busy}, {day}"
