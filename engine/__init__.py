"""Volumes in space, reading, preparing, models, inference, metrics and export. No Qt anywhere below here.

`segment` is the whole of it in one call: ``from engine import segment``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.flow import segment

__all__ = ["segment"]


def __getattr__(name: str) -> object:
    # Whoever imports a module of this package needs none of what segmenting pulls in.
    if name == "segment":
        from engine.flow import segment

        return segment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
