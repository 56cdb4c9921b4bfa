"""What the parts of the built program weigh."""

from __future__ import annotations

import re
from pathlib import Path

# Parts worth a line of their own; what is smaller is told of together.
LEAST_MB = 5.0


def weights(folder: Path) -> list[tuple[str, float]]:
    """What the program's parts weigh in MB, the heaviest first, and all of it."""
    parts: dict[str, float] = {}
    for file in folder.rglob("*"):
        if file.is_symlink() or not file.is_file():
            continue
        place = file.relative_to(folder)
        name = place.parts[0]
        if name == "_internal":
            # A package's own libraries lie in a folder beside it.
            name = re.sub(r"\.libs$", "", place.parts[1]) if len(place.parts) > 2 else "system libraries"
        elif len(place.parts) == 1:
            name = "the program and its modules" if file.stem.startswith("gliascope") else "licences"
        parts[name] = parts.get(name, 0.0) + file.stat().st_size / 1e6
    heavy = sorted(((name, size) for name, size in parts.items() if size >= LEAST_MB), key=lambda part: -part[1])
    rest = sum(parts.values()) - sum(size for _, size in heavy)
    return [*heavy, ("everything else", rest), ("in all", sum(parts.values()))]
