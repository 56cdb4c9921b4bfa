"""One line under the pictures: where the crosshair is and what lies there."""

from __future__ import annotations

import numpy as np
from PySide6.QtWidgets import QFrame, QHBoxLayout

from app.controls import ElidedLabel, label
from app.overview_cell import figure
from app.session import Session
from app.viewer_model import ViewerModel
from engine.volume import TUMOUR_CORE, Sequence


class Readout(QFrame):
    """One line under the pictures: where the crosshair is and what lies there."""

    def __init__(self, model: ViewerModel, session: Session) -> None:
        super().__init__()
        self.setObjectName("readout")
        self.setFixedHeight(28)
        self._model, self._session = model, session
        row = QHBoxLayout(self)
        row.setContentsMargins(14, 0, 14, 0)
        row.setSpacing(22)
        self.place = label()
        self.values = label()
        # The first to give way in a narrow window.
        self.region = ElidedLabel()
        self.window_level = label()
        # Fixed widths: nothing else moves when these numbers change.
        self.place.setMinimumWidth(186)
        self.values.setMinimumWidth(150)
        row.addWidget(self.place)
        row.addWidget(self.values)
        row.addWidget(self.region, 1)
        row.addWidget(self.window_level)
        for signal in (model.crosshair_changed, model.layers_changed, model.shown_changed, model.window_changed,
                       model.labels_changed):  # fmt: skip
            signal.connect(self._update)
        self._update()

    def _update(self) -> None:
        model = self._model
        layer, window, voxel = model.layer, model.window, model.voxel()
        if layer is None or window is None or voxel is None:
            for part in (self.place, self.values, self.region, self.window_level):
                part.setText("")
            return
        x, y, z = model.crosshair
        sides = (
            f"{'R' if x >= 0 else 'L'} {abs(x):.1f}",
            f"{'A' if y >= 0 else 'P'} {abs(y):.1f}",
            f"{'S' if z >= 0 else 'I'} {abs(z):.1f}",
        )
        self.place.setText("   ".join(sides) + " mm")
        parts = []
        for key, other in model.layers.items():
            grid = other.volume.grid
            place = voxel if grid.same_as(layer.volume.grid) else None
            if place is None:
                nearest = np.rint(grid.to_voxel(model.crosshair[None])[0]).astype(int)
                if np.any(nearest < 0) or np.any(nearest >= grid.shape):
                    continue
                place = (int(nearest[0]), int(nearest[1]), int(nearest[2]))
            name = key.title if isinstance(key, Sequence) else "?"
            parts.append(f"{name} {figure(float(other.volume.data[place]), other.span[1] - other.span[0])}")
        self.values.setText("    ".join(parts))
        self.region.setText(self._region(voxel))
        scale = layer.span[1] - layer.span[0]
        self.window_level.setText(f"W {figure(window.width, scale)}   L {figure(window.level, scale)}")

    def _region(self, voxel: tuple[int, int, int]) -> str:
        labels, layer, result = self._model.labels, self._model.layer, self._session.result
        if labels is None or layer is None or result is None or not labels.grid.same_as(layer.volume.grid):
            return ""
        names = {0: "outside the tumour", TUMOUR_CORE: "core"}
        chances = result.segmentation.probabilities
        words = names.get(int(labels.data[voxel]), "whole tumour")
        if not chances:
            return words
        return f"{words}    whole {chances['whole_tumour'][voxel]:.2f}  core {chances['tumour_core'][voxel]:.2f}"
