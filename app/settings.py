"""What is remembered from one start to the next.

No patient and no file name, but for the cases that the user saved or opened under names of their own choice; those can
be cleared, and remembering them can be switched off.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress

from PySide6.QtCore import QByteArray, QSettings

from app.viewer_model import Layout, Plane


class Settings:
    """Typed access to what Qt stores for the user.

    Args:
        store: Where; the user's own place when not given.
    """

    def __init__(self, store: QSettings | None = None) -> None:
        self._store = store if store is not None else QSettings("Gliascope", "Gliascope")

    @property
    def notice_read(self) -> bool:
        """Whether the research-use notice was read."""
        return self._flag("notice_read", False)

    @notice_read.setter
    def notice_read(self, value: bool) -> None:
        self._store.setValue("notice_read", value)

    @property
    def tour_taken(self) -> bool:
        """Whether the tour was begun once; it is not offered by itself again."""
        return self._flag("tour_taken", False)

    @tour_taken.setter
    def tour_taken(self, value: bool) -> None:
        self._store.setValue("tour_taken", value)

    @property
    def appearance(self) -> str:
        """``"system"``, ``"dark"`` or ``"light"``."""
        value = str(self._store.value("appearance", "system"))
        return value if value in ("system", "dark", "light") else "system"

    @appearance.setter
    def appearance(self, value: str) -> None:
        self._store.setValue("appearance", value)

    @property
    def radiological(self) -> bool:
        """Whether the patient's left is drawn on the right."""
        return self._flag("radiological", True)

    @radiological.setter
    def radiological(self, value: bool) -> None:
        self._store.setValue("radiological", value)

    @property
    def panel_shown(self) -> bool:
        """Whether the side panel is open."""
        return self._flag("panel_shown", True)

    @panel_shown.setter
    def panel_shown(self, value: bool) -> None:
        self._store.setValue("panel_shown", value)

    @property
    def remembers_cases(self) -> bool:
        """Whether recent cases are remembered."""
        return self._flag("remembers_cases", True)

    @remembers_cases.setter
    def remembers_cases(self, value: bool) -> None:
        self._store.setValue("remembers_cases", value)

    @property
    def recent_cases(self) -> list[str]:
        """Where the cases opened or saved last lie, the latest first."""
        value = self._store.value("recent_cases", [])
        # A list of one comes back as its only member.
        names = value if isinstance(value, list) else [value] if isinstance(value, str) and value else []
        return [str(name) for name in names]

    @recent_cases.setter
    def recent_cases(self, value: list[str]) -> None:
        if value:
            self._store.setValue("recent_cases", value)
        else:
            self._store.remove("recent_cases")
        self._store.sync()

    @property
    def nose_left(self) -> bool:
        """Whether sagittal slices look to the left."""
        return self._flag("nose_left", True)

    @nose_left.setter
    def nose_left(self, value: bool) -> None:
        self._store.setValue("nose_left", value)

    @property
    def interpolated(self) -> bool:
        """Whether scans are smoothed between voxels."""
        return self._flag("interpolated", True)

    @interpolated.setter
    def interpolated(self, value: bool) -> None:
        self._store.setValue("interpolated", value)

    @property
    def swiped(self) -> bool:
        """Whether comparisons are swiped."""
        return self._flag("swiped", False)

    @swiped.setter
    def swiped(self, value: bool) -> None:
        self._store.setValue("swiped", value)

    @property
    def layout(self) -> Layout:
        """Which views were on screen."""
        value = str(self._store.value("layout", ""))
        return next((layout for layout in Layout if layout.value == value), Layout.PLANES)

    @layout.setter
    def layout(self, value: Layout) -> None:
        self._store.setValue("layout", value.value)

    @property
    def plane(self) -> Plane:
        """Which plane the layouts of one plane showed."""
        value = str(self._store.value("plane", ""))
        return next((plane for plane in Plane if plane.title == value), Plane.AXIAL)

    @plane.setter
    def plane(self, value: Plane) -> None:
        self._store.setValue("plane", value.title)

    @property
    def splits(self) -> QByteArray | None:
        """Where the splitters between the planes were."""
        value = self._store.value("splits")
        return value if isinstance(value, QByteArray) else None

    @splits.setter
    def splits(self, value: QByteArray) -> None:
        self._store.setValue("splits", value)

    @property
    def windows(self) -> dict[str, tuple[float, float]]:
        """For each sequence how its window was last set; see `ViewerModel.habits`."""
        with suppress(ValueError, TypeError, AttributeError):
            kept = json.loads(str(self._store.value("windows", "{}")))
            return {
                str(name): (float(low), float(high))
                for name, (low, high) in kept.items()
                if math.isfinite(low) and math.isfinite(high) and low < high
            }
        return {}

    @windows.setter
    def windows(self, value: dict[str, tuple[float, float]]) -> None:
        self._store.setValue("windows", json.dumps(value))

    @property
    def last_folder(self) -> str:
        """Where files were last chosen, while the program runs; never written down, for it may name a patient."""
        return self._last_folder

    @last_folder.setter
    def last_folder(self, value: str) -> None:
        self._last_folder = value

    _last_folder = ""

    @property
    def geometry(self) -> QByteArray | None:
        """Where the window was."""
        value = self._store.value("geometry")
        return value if isinstance(value, QByteArray) else None

    @geometry.setter
    def geometry(self, value: QByteArray) -> None:
        self._store.setValue("geometry", value)

    def _flag(self, name: str, default: bool) -> bool:
        # INI files give text back.
        return str(self._store.value(name, default)).lower() == "true"
