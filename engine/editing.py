"""Correcting a label map by hand: brushes and operations, each one a named change that can be taken back.

Everything is measured in mm in the patient, through the grid's affine, so that a brush is round on anisotropic,
oblique and sheared grids alike. A change is kept as the exclusive or of before and after in the smallest box around
it, compressed: the same bytes take it back and bring it again, and a stroke costs a few hundred of them, so there is
no limit to how many are kept. Labels hold the core inside the whole tumour by their very meaning (1 core, 2 the rest
of the whole tumour): painting core makes whole tumour too, erasing whole tumour takes the core with it, and growing
the core stops at the edge of the whole tumour.
"""

from __future__ import annotations

import base64
import hashlib
import json
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, cast

import cc3d
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from engine.errors import GridMismatch, UnreadableImage, UserError
from engine.volume import (
    REST_OF_WHOLE_TUMOUR,
    TUMOUR_CORE,
    Box,
    FloatArray,
    Grid,
    LabelArray,
    LabelMap,
    Mask,
    bounding_box,
)

Point = NDArray[np.float64]

# The library does not say that its error is one.
_DAMAGED = cast("type[Exception]", isal_zlib.error)
_PLANES = ("sagittal", "coronal", "axial")
_LEVEL = 1
_LONGEST_NAME = 200
# Squared lengths in mm that differ by rounding alone are the same length.
_ROUNDING_MM2 = 1e-6


class Region(StrEnum):
    """What a correction is about; the values are the keys of every table of volumes."""

    WHOLE_TUMOUR = "whole_tumour"
    CORE = "tumour_core"

    @property
    def words(self) -> str:
        """Its name inside a sentence."""
        return "core" if self is Region.CORE else "whole tumour"

    def of(self, labels: LabelArray) -> Mask:
        """The region's voxels among labels of any shape."""
        mask: Mask = labels == TUMOUR_CORE if self is Region.CORE else labels > 0
        return mask


def _table(background: int, core: int, rest: int) -> LabelArray:
    table = np.full(256, rest, np.uint8)
    table[0], table[TUMOUR_CORE] = background, core
    return table


# What becomes of each label where a region is added or taken away.
_ADDED = {
    Region.WHOLE_TUMOUR: _table(REST_OF_WHOLE_TUMOUR, TUMOUR_CORE, REST_OF_WHOLE_TUMOUR),
    Region.CORE: _table(TUMOUR_CORE, TUMOUR_CORE, TUMOUR_CORE),
}
_TAKEN = {
    Region.WHOLE_TUMOUR: _table(0, 0, 0),
    Region.CORE: _table(0, REST_OF_WHOLE_TUMOUR, REST_OF_WHOLE_TUMOUR),
}


@dataclass(frozen=True, order=True)
class Slice:
    """One slice of a grid.

    Attributes:
        axis: The array axis it is cut through.
        index: Where, counted from 0 along the array.
    """

    axis: int
    index: int

    def words(self, grid: Grid) -> str:
        """Its name for people: ``"axial 82"``, counted from 1 towards right, front and head."""
        axes, signs = grid.nearest_axes()
        number = self.index + 1 if signs[self.axis] > 0 else grid.shape[self.axis] - self.index
        return f"{_PLANES[axes[self.axis]]} {number}"

    @classmethod
    def at(cls, grid: Grid, world_axis: int, world: Point) -> Slice:
        """The slice across a world axis (0 x, 1 y, 2 z; the nearest array axis) that holds a point in mm."""
        axis = grid.nearest_axes()[0].index(world_axis)
        index = int(np.rint(grid.to_voxel(np.asarray(world)[None])[0][axis]))
        return cls(axis, min(max(index, 0), grid.shape[axis] - 1))


@dataclass(frozen=True)
class Brush:
    """The shape of a dab.

    Attributes:
        radius_mm: A voxel belongs to the dab if its centre is at most so far away; the voxel under the pointer always.
        ball: A ball through all slices, or a disc on one.
    """

    radius_mm: float
    ball: bool = False

    def __post_init__(self) -> None:
        if not self.radius_mm > 0:
            raise ValueError(f"a brush has a radius, got {self.radius_mm}")


@dataclass(frozen=True, eq=False)
class Limit:
    """Only voxels whose intensity lies in a range are painted or erased.

    Attributes:
        values: ``(I, J, K)`` intensities on the label map's grid.
        low: The least, included.
        high: The greatest, included.
    """

    values: FloatArray
    low: float
    high: float

    def allows(self, box: Box) -> Mask:
        """Which voxels of a box may change."""
        values = self.values[box]
        mask: Mask = (values >= self.low) & (values <= self.high)
        return mask


@dataclass(frozen=True, eq=False)
class Edit:
    """One change, and with it its inverse.

    Attributes:
        name: What was done, to follow "Undo": ``"erase on axial 82"``.
        box: The smallest box around the voxels that changed.
        packed: Before exclusive-or after in that box, in C order, deflated.
        slices: The slices drawn on by hand; empty for everything but strokes of a disc.
    """

    name: str
    box: Box
    packed: bytes = field(repr=False)
    slices: tuple[Slice, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the box."""
        i, j, k = (along.stop - along.start for along in self.box)
        return i, j, k

    def difference(self) -> LabelArray:
        """Before exclusive-or after, ``shape``.

        Raises:
            ValueError: The bytes are not what the box promises; only those of a damaged file are not.
        """
        size = int(np.prod(self.shape))
        try:
            inflater = isal_zlib.decompressobj()
            raw = inflater.decompress(self.packed, size + 1)
        except _DAMAGED as error:
            raise ValueError("a change is damaged") from error
        if len(raw) != size or not inflater.eof:
            raise ValueError("a change has another size than its box")
        return np.frombuffer(raw, np.uint8).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "name": self.name,
            "start": [along.start for along in self.box],
            "shape": list(self.shape),
            "slices": [[at.axis, at.index] for at in self.slices],
            "change": base64.b64encode(self.packed).decode("ascii"),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], grid: Grid) -> Edit:
        """Read what `to_json` wrote, for a label map on this grid.

        Raises:
            ValueError: It makes no sense, or reaches beyond the grid.
        """
        try:
            start, shape = ([int(n) for n in values[key]] for key in ("start", "shape"))
            name, packed = str(values["name"])[:_LONGEST_NAME], base64.b64decode(values["change"], validate=True)
            slices = tuple(Slice(int(axis), int(index)) for axis, index in values["slices"])
        except (KeyError, TypeError, OverflowError, NotBase64) as error:
            raise ValueError("a change makes no sense") from error
        fits = len(start) == len(shape) == 3 and all(
            first >= 0 and count > 0 and first + count <= size
            for first, count, size in zip(start, shape, grid.shape, strict=True)
        )
        if not fits or any(at.axis not in (0, 1, 2) or not 0 <= at.index < grid.shape[at.axis] for at in slices):
            raise ValueError("a change lies outside the grid")
        i, j, k = (slice(first, first + count) for first, count in zip(start, shape, strict=True))
        return cls(name, (i, j, k), packed, slices)


class Editor:
    """A label map that is being corrected.

    The label map given is copied and stays as it is. The editor's own is changed in place, until `detach`: whoever
    shows it is told the box that changed and looks again.

    Args:
        labels: What to start from, in Gliascope's labels.
        edits: Changes to make at once, such as those of an earlier day; they can be taken back too.

    Attributes:
        base: What was started from.
        labels: The label map as it is now.

    Raises:
        ValueError: A change does not fit the label map.
    """

    def __init__(self, labels: LabelMap, edits: Iterable[Edit] = ()) -> None:
        self.base = labels
        self.labels = LabelMap(np.array(labels.data), labels.grid, labels.source)
        self._voxels = {Region.WHOLE_TUMOUR: 0, Region.CORE: 0}
        # All labels lie in this box; nothing else of a large scan is looked at again.
        self._extent = _extent(self.labels.data)
        if self._extent is not None:
            self._count(self.labels.data[self._extent], 1)
        self._applied: list[Edit] = []
        self._undone: list[Edit] = []
        self._stroke: Stroke | None = None
        for edit in edits:
            self._toggle(edit)
            self._applied.append(edit)

    # What is there

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return self.labels.grid

    @property
    def applied(self) -> tuple[Edit, ...]:
        """The changes that are in the label map, first to last."""
        return tuple(self._applied)

    @property
    def undone(self) -> tuple[Edit, ...]:
        """The changes that were taken back and can be brought again, next to last."""
        return tuple(reversed(self._undone))

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of both regions, kept up with every change without looking at the whole label map."""
        return {region.value: count * self.grid.voxel_ml for region, count in self._voxels.items()}

    @property
    def memory(self) -> int:
        """Bytes that the changes take."""
        return sum(len(edit.packed) for edit in (*self._applied, *self._undone))

    def detach(self) -> None:
        """Go on with a copy: the label map given out so far stays as it is, for whoever works with it elsewhere."""
        self.labels = LabelMap(np.array(self.labels.data), self.grid, self.labels.source)

    def drawn(self, axis: int) -> list[int]:
        """The slices across an array axis that were drawn on by hand, in order."""
        return sorted({at.index for edit in self._applied for at in edit.slices if at.axis == axis})

    def gap(self, at: Slice) -> tuple[int, int] | None:
        """The two drawn slices around a slice, with something between them; None where there are none.

        On a drawn slice it is the gap towards the slice drawn most recently on that side.
        """
        drawn = self.drawn(at.axis)
        gaps = [(a, b) for a, b in pairwise(drawn) if b - a > 1 and a <= at.index <= b]
        if len(gaps) < 2:
            return gaps[0] if gaps else None
        recent = [other.index for edit in reversed(self._applied) for other in edit.slices if other.axis == at.axis]
        before = next(index for index in recent if index != at.index)
        return gaps[0] if before < at.index else gaps[1]

    # Strokes

    def stroke(self, brush: Brush, region: Region, erase: bool = False, limit: Limit | None = None) -> Stroke:
        """Begin a stroke; it is one change once it has ended.

        Raises:
            ValueError: Another one has not ended, or the limit's intensities lie on another grid.
        """
        if self._stroke is not None:
            raise ValueError("a stroke is under way")
        if limit is not None and limit.values.shape != self.grid.shape:
            raise ValueError(f"intensities {limit.values.shape} do not fit the label map {self.grid.shape}")
        self._stroke = Stroke(self, brush, region, erase, limit)
        return self._stroke

    # Operations

    def fill_holes(self, region: Region, at: Slice | None = None) -> Edit | None:
        """Add what a region encloses: in 3-D, or on one slice.

        Returns:
            The change, or None where there is no hole.
        """
        box, mask = self._region(region, at)
        if box is None:
            return None
        flat = mask if at is None else mask.squeeze(at.axis)
        # Around the box there is nothing of the region, so everything reached from a corner is outside.
        outside = np.pad(~flat, 1, constant_values=True)
        connectivity = 6 if at is None else 4
        pieces = cc3d.connected_components(outside.astype(np.uint8), connectivity=connectivity)
        holes = (pieces != pieces[(0,) * pieces.ndim]) & (pieces > 0)
        inner = holes[(slice(1, -1),) * holes.ndim].reshape(mask.shape)
        return self._commit(f"fill holes of the {region.words}{_on(at, self.grid)}", box, inner, _ADDED[region])

    def remove_island(self, region: Region, world: Point, at: Slice | None = None) -> Edit | None:
        """Take away the connected piece of a region at a point, in 3-D or on one slice.

        Args:
            region: Of what; the island of a core becomes the rest of the whole tumour.
            world: ``(3,)`` in mm.
            at: On this slice alone.

        Returns:
            The change, or None where there is no such region at the point.
        """
        box, mask = self._region(region, at)
        voxel = np.rint(self.grid.to_voxel(np.asarray(world)[None])[0]).astype(int)
        if at is not None:
            voxel[at.axis] = at.index
        if box is None or any(not along.start <= v < along.stop for v, along in zip(voxel, box, strict=True)):
            return None
        inside = tuple(int(v) - along.start for v, along in zip(voxel, box, strict=True))
        if not mask[inside]:
            return None
        # Pieces that touch at a corner are one, as everywhere in Gliascope; on a slice nothing else is in the box.
        pieces = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
        island = pieces == pieces[inside]
        size = f"{np.count_nonzero(island) * self.grid.voxel_ml:.2g} ml"
        which = "island of core" if region is Region.CORE else "island"
        return self._commit(f"remove {which} of {size}{_on(at, self.grid)}", box, island, _TAKEN[region])

    def grow(self, region: Region, mm: float, at: Slice | None = None) -> Edit | None:
        """Move a region's surface outwards by so many mm, or inwards if negative; in 3-D, or on one slice.

        A voxel is added if the centre of any voxel of the region is at most so far away, and taken away if the centre
        of any voxel outside it is; what lies beyond the edge of the scan counts as neither. A growing core stays
        inside the whole tumour.

        Returns:
            The change, or None where nothing changed.
        """
        box, mask = self._region(region, at)
        if box is None or mm == 0:
            return None
        axis = at.axis if at is not None else None
        reach = _half_widths(self.grid, abs(mm), axis)
        wide = _widened(box, np.floor(reach + 1e-9).astype(int) + 1, self.grid.shape)
        if at is not None:
            wide = _with_axis(wide, at)
        now = self.labels.data[wide]
        mask = np.ascontiguousarray(region.of(now))
        on = _on(at, self.grid)
        if mm < 0:
            lost = _spread(~mask, self.grid, -mm, axis) & mask
            return self._commit(f"shrink {region.words} by {-mm:g} mm{on}", wide, lost, _TAKEN[region])
        won = _spread(mask, self.grid, mm, axis) & ~mask
        if region is Region.CORE:
            won &= now > 0
        return self._commit(f"grow {region.words} by {mm:g} mm{on}", wide, won, _ADDED[region])

    def interpolate(self, region: Region, axis: int, first: int, last: int) -> Edit | None:
        """Replace a region between two slices by the shapes halfway from one to the other.

        Between the two, the outline is where the signed distances to both outlines, weighted by nearness, are zero.

        Args:
            region: What is replaced; the other labels stay.
            axis: The array axis the slices are cut through.
            first: One slice; it stays as it is.
            last: The other.

        Returns:
            The change, or None where nothing changed.

        Raises:
            UserError: One of the two slices holds nothing of the region.
        """
        first, last = sorted((first, last))
        ends = []
        for index in (first, last):
            mask = region.of(self._slice(Slice(axis, index)))
            if not mask.any():
                where = Slice(axis, index).words(self.grid)
                raise UserError(f"There is no {region.words} on {where} to start from", "", "Draw it there first.")
            ends.append(self._signed_distance(mask, axis))
        if last - first < 2:
            return None
        between = _with_axis((slice(None),) * 3, Slice(axis, first + 1), last - first - 1)
        box = _whole(between, self.grid.shape)
        wanted = np.empty(tuple(along.stop - along.start for along in box), bool)
        stack = np.moveaxis(wanted, axis, 0)
        for number in range(1, last - first):
            share = number / (last - first)
            stack[number - 1] = (1 - share) * ends[0] + share * ends[1] < 0
        a, b = (Slice(axis, index).words(self.grid) for index in (first, last))
        name = f"interpolate {region.words} from {a} to {b.split()[1]}"
        now = self.labels.data[box]
        new = np.where(wanted, _ADDED[region][now], _TAKEN[region][now])
        return self._put(name, box, new)

    def copy_from(self, other: LabelMap, source: str, region: Region | None = None) -> Edit | None:
        """Take a region, or everything, as another result has it.

        Args:
            other: On the same grid.
            source: What to call it: ``"copy core from Teacher"``.
            region: None for both.

        Returns:
            The change, or None where both agree.

        Raises:
            GridMismatch: The other lies on another grid.
        """
        if not self.grid.same_as(other.grid):
            raise GridMismatch(
                f"{source} does not lie on the grid of this result",
                self.grid.difference(other.grid),
                "Copy from a mask that was made on the same scan.",
            )
        box = _union(self._extent, _extent(other.data))
        if box is None:
            return None
        now, theirs = self.labels.data[box], other.data[box]
        if region is None:
            new, name = theirs.copy(), f"copy everything from {source}"
        else:
            new = np.where(region.of(theirs), _ADDED[region][now], _TAKEN[region][now])
            name = f"copy {region.words} from {source}"
        return self._put(name, box, new)

    # Taking back

    def undo(self) -> Edit | None:
        """Take back the last change; None where there is none.

        Raises:
            ValueError: A stroke is under way.
        """
        self._at_rest()
        if not self._applied:
            return None
        edit = self._applied[-1]
        self._toggle(edit)
        self._undone.append(self._applied.pop())
        return edit

    def redo(self) -> Edit | None:
        """Bring back the change taken back last; None where there is none.

        Raises:
            ValueError: A stroke is under way.
        """
        self._at_rest()
        if not self._undone:
            return None
        edit = self._undone[-1]
        self._toggle(edit)
        self._applied.append(self._undone.pop())
        return edit

    # Inside

    def _at_rest(self) -> None:
        if self._stroke is not None:
            raise ValueError("a stroke is under way")

    def _slice(self, at: Slice) -> LabelArray:
        found: LabelArray = np.moveaxis(self.labels.data, at.axis, 0)[at.index]
        return found

    def _region(self, region: Region, at: Slice | None) -> tuple[Box | None, Mask]:
        """The box around a region, in the volume or on a slice, and the region in it."""
        self._at_rest()
        window = self._extent
        if window is not None and at is not None:
            window = _with_axis(window, at) if window[at.axis].start <= at.index < window[at.axis].stop else None
        inside = bounding_box(region.of(self.labels.data[window])) if window is not None else None
        if window is None or inside is None:
            return None, np.zeros((0, 0, 0), bool)
        box = _shifted(inside, window)
        return box, np.ascontiguousarray(region.of(self.labels.data[box]))

    def _signed_distance(self, mask: Mask, axis: int) -> NDArray[np.float64]:
        """Distance in mm to the outline on a slice, negative inside."""
        from scipy import ndimage  # 0.2 s that only whoever interpolates waits for

        spacing = [mm for other, mm in enumerate(self.grid.spacing) if other != axis]
        outside: NDArray[np.float64] = ndimage.distance_transform_edt(~mask, sampling=spacing)
        inside: NDArray[np.float64] = ndimage.distance_transform_edt(mask, sampling=spacing)
        return outside - inside

    def _commit(self, name: str, box: Box, where: Mask, table: LabelArray) -> Edit | None:
        now = self.labels.data[box]
        return self._put(name, box, np.where(where, table[now], now))

    def _put(self, name: str, box: Box, new: LabelArray) -> Edit | None:
        self._at_rest()
        patch = self._change(box, new)
        return self._remember(name, [patch]) if patch is not None else None

    def _change(self, box: Box, new: LabelArray) -> tuple[Box, LabelArray] | None:
        """Put labels into a box; the smallest box of what became different and before exclusive-or after in it."""
        now = self.labels.data[box]
        difference = now ^ new
        inner = bounding_box(difference > 0)
        if inner is None:
            return None
        box = _shifted(inner, box)
        difference = np.ascontiguousarray(difference[inner])
        self._apply(box, difference)
        return box, difference

    def _toggle(self, edit: Edit) -> None:
        self._apply(edit.box, edit.difference())

    def _apply(self, box: Box, difference: LabelArray) -> None:
        now = self.labels.data[box]
        changed = difference != 0
        before = now[changed]
        after = before ^ difference[changed]
        if after.size and after.max() > REST_OF_WHOLE_TUMOUR:
            raise ValueError("a change does not fit the label map it is made to")
        self._count(before, -1)
        self._count(after, 1)
        self._extent = _union(self._extent, box)
        now ^= difference

    def _count(self, labels: LabelArray, sign: int) -> None:
        self._voxels[Region.WHOLE_TUMOUR] += sign * int(np.count_nonzero(labels))
        self._voxels[Region.CORE] += sign * int(np.count_nonzero(labels == TUMOUR_CORE))

    def _remember(self, name: str, patches: list[tuple[Box, LabelArray]], slices: Iterable[Slice] = ()) -> Edit | None:
        """Make one change of several patches laid over one another, which are in the label map already."""
        box = None
        for other, _ in patches:
            box = _union(box, other)
        if box is None:
            return None
        total = np.zeros(tuple(along.stop - along.start for along in box), np.uint8)
        for part, difference in patches:
            i, j, k = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, box, strict=True))
            total[i, j, k] ^= difference
        inner = bounding_box(total > 0)
        if inner is None:
            return None  # it ended where it began
        packed = isal_zlib.compress(np.ascontiguousarray(total[inner]).tobytes(), _LEVEL)
        edit = Edit(name, _shifted(inner, box), packed, tuple(sorted(set(slices))))
        self._applied.append(edit)
        self._undone.clear()
        return edit


class Stroke:
    """A brush being drawn over the label map, which changes with every reach; made by `Editor.stroke`."""

    def __init__(self, editor: Editor, brush: Brush, region: Region, erase: bool, limit: Limit | None) -> None:
        self._editor, self._brush, self._region, self._erase, self._limit = editor, brush, region, erase, limit
        self._patches: list[tuple[Box, LabelArray]] = []
        self._last: Point | None = None
        self._slices: list[Slice] = []

    def reach(self, world: Point, at: Slice) -> Box | None:
        """Draw from where the brush was to a point; the first time, dab there.

        Args:
            world: ``(3,)`` in mm.
            at: The slice that is looked at; a disc lies on it, and the change is named after it.

        Returns:
            The box in which voxels changed, or None.
        """
        voxel = self._editor.grid.to_voxel(np.asarray(world)[None])[0]
        moved_on = bool(self._slices) and self._slices[-1] != at
        start = voxel if self._last is None or (moved_on and not self._brush.ball) else self._last
        self._last = voxel
        if moved_on or not self._slices:
            self._slices.append(at)
        changed: Box | None = None
        for a, b in pairwise(self._stations(start, voxel)):
            footprint = dab(self._editor.grid, self._brush, a, b, None if self._brush.ball else at)
            if footprint is not None:
                changed = _union(changed, self._put(*footprint))
        return changed

    def end(self) -> Edit | None:
        """End the stroke and keep it as one change; None where nothing changed."""
        self._editor._stroke = None
        grid = self._editor.grid
        verb = "erase" if self._erase else "paint"
        what = " core" if self._region is Region.CORE else ""
        if self._brush.ball:
            where = f"with the ball at {self._slices[0].words(grid)}" if self._slices else ""
        else:
            first, last = (min(self._slices), max(self._slices)) if self._slices else (None, None)
            where = f"on {first.words(grid)}" if first is not None else ""
            if first is not None and last is not None and last != first:
                where += f" to {last.words(grid).split()[1]}"
        slices = () if self._brush.ball else self._slices
        return self._editor._remember(f"{verb}{what} {where}".strip(), self._patches, slices)

    def cancel(self) -> Box | None:
        """Take the stroke back as if it had never begun; the box that changed, or None."""
        self._editor._stroke = None
        box: Box | None = None
        for part, difference in reversed(self._patches):
            self._editor._apply(part, difference)
            box = _union(box, part)
        self._patches = []
        return box

    def _stations(self, start: Point, end: Point) -> list[Point]:
        """Points on the way, near enough to one another that no box between two is much larger than the brush."""
        length = float(np.linalg.norm(self._editor.grid.affine[:3, :3] @ (end - start)))
        count = max(1, int(np.ceil(length / (2 * self._brush.radius_mm + 10))))
        return [start + (end - start) * share for share in np.linspace(0, 1, count + 1)]

    def _put(self, box: Box, where: Mask) -> Box | None:
        if self._limit is not None:
            where = where & self._limit.allows(box)
        now = self._editor.labels.data[box]
        table = (_TAKEN if self._erase else _ADDED)[self._region]
        patch = self._editor._change(box, np.where(where, table[now], now))
        if patch is None:
            return None
        self._patches.append(patch)
        return patch[0]


def dab(grid: Grid, brush: Brush, start: Point, end: Point, on: Slice | None) -> tuple[Box, Mask] | None:
    """The voxels that a brush covers on its way from one point to another.

    Args:
        grid: Whose voxels.
        brush: Its radius.
        start: ``(3,)`` voxel indices with fractions.
        end: The same.
        on: The slice that a disc lies on; distances are then measured within it. None for a ball.

    Returns:
        A box of the grid and which of its voxels are covered; None where that is none.
    """
    start, end = np.array(start, np.float64), np.array(end, np.float64)
    axis = on.axis if on is not None else None
    if on is not None:
        start[on.axis] = end[on.axis] = on.index
    half = _half_widths(grid, brush.radius_mm, axis)
    low, high = np.minimum(start, end), np.maximum(start, end)
    # The voxel under the pointer belongs to the dab however small the brush.
    first = np.minimum(np.ceil(low - half - 1e-9), np.rint(low)).astype(int)
    last = np.maximum(np.floor(high + half + 1e-9), np.rint(high)).astype(int)
    first, last = np.maximum(first, 0), np.minimum(last, np.array(grid.shape) - 1)
    if np.any(first > last):
        return None
    i, j, k = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    box = (i, j, k)
    offsets = [
        (np.arange(along.start, along.stop) - start[n]).reshape([-1 if m == n else 1 for m in range(3)])
        for n, along in enumerate(box)
    ]
    metric = grid.affine[:3, :3].T @ grid.affine[:3, :3]
    squared = sum(metric[n, n] * offsets[n] ** 2 for n in range(3))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        if abs(metric[a, b]) > 1e-9 * np.sqrt(metric[a, a] * metric[b, b]):
            squared = squared + 2 * metric[a, b] * offsets[a] * offsets[b]
    way = end - start
    length = float(way @ metric @ way)
    if length > 0:
        towards = metric @ way
        along_way = sum(towards[n] * offsets[n] for n in range(3))
        share = np.clip(along_way / length, 0, 1)
        squared = squared + share * (share * length - 2 * along_way)
    covered: Mask = np.broadcast_to(
        squared <= brush.radius_mm**2 + _ROUNDING_MM2, tuple(along.stop - along.start for along in box)
    ).copy()
    for point in (start, end):
        nearest = np.rint(point).astype(int)
        if np.all(nearest >= first) and np.all(nearest <= last):
            covered[tuple(nearest - first)] = True
    return (box, covered) if covered.any() else None


def fingerprint(labels: LabelMap) -> str:
    """SHA-256 of a label map's labels and where in the array they are, whatever its order in memory."""
    digest = hashlib.sha256(" ".join(map(str, labels.grid.shape)).encode())
    box = _extent(labels.data)
    if box is not None:
        digest.update(" ".join(f"{along.start}:{along.stop}" for along in box).encode())
        digest.update(np.ascontiguousarray(labels.data[box]).data)
    return digest.hexdigest()


def pack(labels: LabelMap) -> dict[str, Any]:
    """A whole label map as plain JSON values: a few kilobytes for a tumour."""
    box = _extent(labels.data)
    edits = []
    if box is not None:
        packed = isal_zlib.compress(np.ascontiguousarray(labels.data[box]).tobytes(), _LEVEL)
        edits.append(Edit("labels", box, packed).to_json())
    return {"sha256": fingerprint(labels), "labels": edits}


def unpack(values: Mapping[str, Any], grid: Grid) -> LabelMap:
    """The label map that `pack` wrote.

    Raises:
        UnreadableImage: It is damaged, or was made for another grid.
    """
    try:
        edits = [Edit.from_json(edit, grid) for edit in values["labels"]]
        labels = Editor(LabelMap(np.zeros(grid.shape, np.uint8), grid), edits).labels
        intact = fingerprint(labels) == values["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged() from error
    if not intact:
        raise _damaged()
    return labels


def pack_edits(base: Mapping[str, Any], edits: Iterable[Edit]) -> dict[str, Any]:
    """A result, as `pack` wrote it, and the changes made to it since, as plain JSON values."""
    edits = tuple(edits)
    return {"base": dict(base), "edits": [edit.to_json() for edit in edits], "sha256": _chain(base["sha256"], edits)}


def unpack_edits(values: Mapping[str, Any], grid: Grid) -> Editor:
    """The result and its changes that `pack_edits` wrote; every change can be taken back.

    Raises:
        UnreadableImage: They are damaged, or were made for another grid.
    """
    try:
        base = unpack(values["base"], grid)
        edits = tuple(Edit.from_json(edit, grid) for edit in values["edits"])
        if _chain(values["base"]["sha256"], edits) != values["sha256"]:
            raise _damaged()
        return Editor(base, edits)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged() from error


def _chain(base: str, edits: Iterable[Edit]) -> str:
    """One SHA-256 for a result and its changes in their order."""
    digest = hashlib.sha256(base.encode())
    for edit in edits:
        digest.update(json.dumps(edit.to_json(), sort_keys=True).encode())
    return digest.hexdigest()


def _damaged() -> UnreadableImage:
    return UnreadableImage(
        "The kept corrections cannot be used", "they are damaged or belong to another scan", "Segment again."
    )


def _on(at: Slice | None, grid: Grid) -> str:
    return f" on {at.words(grid)}" if at is not None else ""


def _half_widths(grid: Grid, radius_mm: float, axis: int | None) -> Point:
    """Half the extent in voxels, along each array axis, of a ball, or of a disc across ``axis``."""
    free = [n for n in range(3) if n != axis]
    columns = grid.affine[:3, free]
    widths = np.zeros(3)
    widths[free] = radius_mm * np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))
    return widths


def _spread(mask: Mask, grid: Grid, mm: float, axis: int | None) -> Mask:
    """A mask grown by ``mm`` inside its array; within the slices across ``axis`` if that is given.

    A ball is a bundle of rods along the first free axis; the mask grown along rods of each length is shifted to each
    rod's place. That is exact for sheared grids too, and ten times quicker than a distance map.
    """
    metric = grid.affine[:3, :3].T @ grid.affine[:3, :3]
    rod = 1 if axis == 0 else 0
    across = [n for n in range(3) if n not in (rod, axis)]
    half = np.floor(_half_widths(grid, mm, axis) + 1e-9).astype(int)
    rods: dict[int, list[tuple[int, dict[int, int]]]] = {}
    steps = [range(-half[n], half[n] + 1) for n in across]
    for place in np.ndindex(*(len(step) for step in steps)):
        offset = {n: int(step[p]) for n, step, p in zip(across, steps, place, strict=True)}
        # |x e + o|^2 <= mm^2 is a range of x: the roots of a x^2 + 2 b x + c.
        a = metric[rod, rod]
        b = sum(metric[rod, n] * d for n, d in offset.items())
        c = sum(metric[n, m] * d * e for n, d in offset.items() for m, e in offset.items()) - mm**2 - _ROUNDING_MM2
        root = b * b - a * c
        if root < 0:
            continue
        first, last = int(np.ceil((-b - np.sqrt(root)) / a)), int(np.floor((-b + np.sqrt(root)) / a))
        if last >= first:
            rods.setdefault(last - first, []).append((first, offset))
    longest = max(rods, default=-1)
    if longest < 0:
        return np.zeros_like(mask)
    # Rods may begin inside the array and end beyond it: with room at the end none is cut before it is shifted back.
    room = [(0, longest if n == rod else 0) for n in range(3)]
    padded = np.pad(mask, room)
    total = np.zeros_like(padded)
    longer = padded.copy()  # grown by 0 .. longest voxels along the rods' axis
    for length in range(longest + 1):
        if length:
            _or_shifted(longer, padded, {rod: length})
        for first, offset in rods.get(length, ()):
            _or_shifted(total, longer, {rod: first, **offset})
    spread: Mask = total[tuple(slice(0, n) for n in mask.shape)]
    return spread


def _or_shifted(into: Mask, mask: Mask, offset: dict[int, int]) -> None:
    """``into |= mask`` moved by voxels along axes, in place; what leaves the array is lost."""
    to, of = [slice(None)] * 3, [slice(None)] * 3
    for axis, by in offset.items():
        size = mask.shape[axis]
        to[axis] = slice(max(0, by), max(0, min(size, size + by)))
        of[axis] = slice(max(0, -by), max(0, min(size, size - by)))
    into[tuple(to)] |= mask[tuple(of)]


def _with_axis(box: Box, at: Slice, count: int = 1) -> Box:
    """A box cut down to ``count`` slices from one on."""
    i, j, k = (slice(at.index, at.index + count) if n == at.axis else along for n, along in enumerate(box))
    return i, j, k


def _whole(box: Box, shape: tuple[int, int, int]) -> Box:
    """A box with its open ends at those of the grid."""
    i, j, k = (slice(*along.indices(size)) for along, size in zip(box, shape, strict=True))
    return slice(i.start, i.stop), slice(j.start, j.stop), slice(k.start, k.stop)


def _widened(box: Box, by: NDArray[np.int_], shape: tuple[int, int, int]) -> Box:
    i, j, k = (
        slice(max(0, along.start - int(n)), min(size, along.stop + int(n)))
        for along, n, size in zip(box, by, shape, strict=True)
    )
    return i, j, k


def _shifted(inner: Box, box: Box) -> Box:
    """A box given inside another, on the grid."""
    i, j, k = (slice(b.start + a.start, b.start + a.stop) for a, b in zip(inner, box, strict=True))
    return i, j, k


def _extent(labels: LabelArray) -> Box | None:
    """The smallest box around all labels; the array is run through once, in the order in which it lies in memory."""
    if labels.flags.f_contiguous and not labels.flags.c_contiguous:
        box = _extent(labels.T)
        return None if box is None else (box[2], box[1], box[0])
    flat = labels.max(axis=2) > 0
    i, j = (np.flatnonzero(flat.any(axis=axis)) for axis in (1, 0))
    if not i.size:
        return None
    rows, columns = slice(int(i[0]), int(i[-1]) + 1), slice(int(j[0]), int(j[-1]) + 1)
    k = np.flatnonzero(labels[rows, columns].max(axis=(0, 1)))
    return rows, columns, slice(int(k[0]), int(k[-1]) + 1)


def _union(a: Box | None, b: Box | None) -> Box | None:
    """The smallest box around both."""
    if a is None or b is None:
        return a or b
    i, j, k = (slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return i, j, k
