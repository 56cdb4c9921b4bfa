"""Every key of the window as an action with a name, and the sheet that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QWidget

GROUPS = ("Look", "Layouts", "Tumour", "Correct", "Prepare", "Work")
OTHERS = "Work"
_GROUP = "group of keys"

# What the mouse does is no action; it is told beside those of its group.
GESTURES = {
    "Look": (
        ("Wheel", "Next slice; zoom in 3-D"),
        ("Left, arrows", "Crosshair; turn in 3-D"),
        ("Shift arrows", "Crosshair by ten"),
        ("Right drag", "Window and level"),
        ("Right twice", "Window of the start"),
        ("Middle drag", "Move (or Shift and left)"),
        ("Ctrl wheel", "Zoom"),
    ),
    "Layouts": (("Left twice, Enter", "One big view, and back"),),
    "Prepare": (
        ("Hold X", "The scan before the step looked at"),
        ("Left drag", "Push the scan that is aligned"),
        ("Ctrl left drag", "Turn it about the crosshair"),
    ),
}


def bind(window: QWidget, group: str, title: str, keys: str | Iterable[str], act: Callable[[], object]) -> QAction:
    """A key of the whole window.

    Args:
        window: Whose key it is.
        group: One of `GROUPS`, under which the sheet lists it.
        title: What it does, for the sheet and for screen readers.
        keys: One key, or several that do the same.
        act: What is done.
    """
    made = QAction(title, window)
    made.setShortcuts([QKeySequence(key) for key in ([keys] if isinstance(keys, str) else keys)])
    made.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
    made.setProperty(_GROUP, group)
    made.triggered.connect(lambda _=False: act())
    window.addAction(made)
    return made


def in_group(action: QAction, group: str) -> QAction:
    """Say under which group the sheet lists an action that was made elsewhere."""
    action.setProperty(_GROUP, group)
    return action


def sheet(window: QWidget) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the keys of a window do: ``(group, [(keys, meaning)])``, made from the actions that do it."""
    lines: dict[str, list[tuple[str, str]]] = {group: list(GESTURES.get(group, ())) for group in GROUPS}
    for action in window.actions():
        shortcuts = action.shortcuts()
        if not shortcuts or not action.text():
            continue
        group = action.property(_GROUP)
        title = action.text().replace("&", "").rstrip(".")
        lines[group if group in lines else OTHERS].append((_keys(shortcuts), title))
    return [(group, found) for group, found in lines.items() if found]


def _keys(shortcuts: list[QKeySequence]) -> str:
    """The keys as they are written on keyboards here: ``"Ctrl Shift O"``, ``"+, ="``."""
    native = QKeySequence.SequenceFormat.NativeText
    words = []
    for shortcut in shortcuts:
        text = shortcut.toString(native)
        # The plus between keys is dropped, the key that is a plus is kept.
        text = " ".join(part for part in text.split("+") if part) if len(text) > 1 and text != "+" else text
        text = {"PgUp": "Page Up", "PgDown": "Page Down"}.get(text, text)
        if text not in words:
            words.append(text)
    return ", ".join(words)
