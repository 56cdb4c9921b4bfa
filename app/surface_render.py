"""Draws surfaces with OpenGL into a picture; knows nothing of widgets.

Drawing goes into a buffer of its own and comes back as a `QImage`, rather than into a `QOpenGLWidget`: one such widget
makes Qt hand every other part of the window through OpenGL too, which slows the turning of slices, and it can neither
be tested nor saved the way it is seen. OpenGL 2 with small shaders is enough, and Qt brings all of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QSize
from PySide6.QtGui import (
    QColor,
    QGuiApplication,
    QImage,
    QMatrix4x4,
    QOffscreenSurface,
    QOpenGLContext,
    QSurfaceFormat,
    QVector3D,
    QVector4D,
)
from PySide6.QtOpenGL import (
    QOpenGLBuffer,
    QOpenGLFramebufferObject,
    QOpenGLFramebufferObjectFormat,
    QOpenGLShader,
    QOpenGLShaderProgram,
    QOpenGLTexture,
)
from shiboken6 import VoidPtr

from engine.errors import UserError
from engine.surface import Surface

Vector = NDArray[np.float64]

# OpenGL's own numbers; Qt's Python binding has the functions, not the names.
_DEPTH_BUFFER, _COLOUR_BUFFER = 0x0100, 0x4000
_LINE_LOOP, _TRIANGLES, _TRIANGLE_FAN = 0x0002, 0x0004, 0x0006
_LESS_OR_EQUAL = 0x0203
_SOURCE_ALPHA, _ONE, _ONE_LESS_SOURCE_ALPHA = 0x0302, 1, 0x0303
_CULL_FACE, _DEPTH_TEST, _BLEND = 0x0B44, 0x0B71, 0x0BE2
_FLOAT, _UNSIGNED_INT = 0x1406, 0x1405
_VERSION = 0x1F02
# A place in the bound buffer; the binding says int and takes a pointer alone.
_FROM_THE_START: Any = VoidPtr(0)

SAMPLES = 4
FIELD_OF_VIEW = 24.0
OFF = "GLIASCOPE_NO_OPENGL"

_SURFACE_VERTEX = """
attribute highp vec3 position;
attribute highp vec3 normal;
uniform highp mat4 to_eye;
uniform highp mat4 to_clip;
varying highp vec3 eye_normal;
varying highp vec3 eye_place;
void main() {
    highp vec4 place = to_eye * vec4(position, 1.0);
    eye_place = place.xyz;
    eye_normal = (to_eye * vec4(normal, 0.0)).xyz;
    gl_Position = to_clip * place;
}
"""

# A lamp over the viewer's left shoulder, a weaker one from below on the right, and light from everywhere. Glass is seen
# at its rims, where the eye meets it at a slant, and hardly in its middle.
_SURFACE_FRAGMENT = """
varying highp vec3 eye_normal;
varying highp vec3 eye_place;
uniform highp vec4 colour;
uniform highp float rim;
uniform highp float shine;
void main() {
    highp vec3 n = normalize(eye_normal);
    highp vec3 to_viewer = normalize(-eye_place);
    highp float facing = abs(dot(n, to_viewer));
    if (dot(n, to_viewer) < 0.0) n = -n;
    highp vec3 key = normalize(vec3(-0.45, 0.65, 0.75));
    highp vec3 fill = normalize(vec3(0.7, -0.45, 0.35));
    highp float light = 0.42 + 0.58 * max(dot(n, key), 0.0) + 0.18 * max(dot(n, fill), 0.0);
    highp float gloss = shine * pow(max(dot(n, normalize(key + to_viewer)), 0.0), 40.0);
    // What shines through glass is not to be darkened by it.
    light = mix(light, 1.0, step(0.001, rim) * 0.45);
    highp float slant = pow(1.0 - facing, 2.2);
    highp float alpha = min(1.0, mix(colour.a, min(1.0, colour.a + rim), slant) + gloss * rim);
    gl_FragColor = vec4(colour.rgb * light + vec3(gloss), alpha);
}
"""

_FLAT_VERTEX = """
attribute highp vec3 position;
attribute highp vec2 place_in_picture;
uniform highp mat4 to_clip;
varying highp vec2 at;
void main() {
    at = place_in_picture;
    gl_Position = to_clip * vec4(position, 1.0);
}
"""

_FLAT_FRAGMENT = """
varying highp vec2 at;
uniform highp vec4 colour;
uniform highp float pictured;
uniform sampler2D picture;
void main() {
    highp vec4 seen = texture2D(picture, at);
    // A slice is cut out along the head, halfway between air and tissue, and no air is mixed into its colour.
    if (pictured > 0.5 && seen.a < 0.5) discard;
    gl_FragColor = mix(colour, vec4(seen.rgb / max(seen.a, 0.01), 1.0), pictured);
}
"""


class NoOpenGL(UserError):
    """This computer, or this way of reaching it, has no OpenGL to draw with."""

    def __init__(self, why: str = "") -> None:
        super().__init__(
            "3-D cannot be drawn here",
            why,
            "The planes show the same mask, and surfaces can still be saved as STL.",
        )


@dataclass(frozen=True)
class Camera:
    """From where the head is looked at. The head stays upright; up and down stop at the poles.

    Attributes:
        azimuth: Degrees the viewer walks around the head, 0 in front of it, positive towards the patient's left.
        elevation: Degrees above the head's equator.
        zoom: 1 shows the whole head.
        shift: Right and up by these shares of the picture's height.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    @property
    def towards(self) -> Vector:
        """``(3,)`` unit vector from the head to the viewer, RAS+."""
        a, e = np.radians(self.azimuth), np.radians(self.elevation)
        return np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), np.sin(e)])

    @property
    def words(self) -> str:
        """Where the viewer stands: ``"front"``, ``"left above"``."""
        x, y, z = self.towards
        parts = []
        if abs(self.elevation) < 67.5:
            if abs(y) > 0.38 * np.cos(np.radians(self.elevation)):
                parts.append("front" if y > 0 else "behind")
            if abs(x) > 0.38 * np.cos(np.radians(self.elevation)):
                parts.append("right" if x > 0 else "left")
        if abs(z) > 0.38:
            parts.append("above" if z > 0 else "below")
        return " ".join(parts)

    def to_eye(self, centre: Vector, radius: float) -> QMatrix4x4:
        """From the world in mm to the viewer's right, up and back."""
        distance = radius / np.sin(np.radians(FIELD_OF_VIEW / 2))
        up = np.array([0.0, 0.0, 1.0])
        if abs(self.elevation) > 89.9:
            a = np.radians(self.azimuth)
            up = np.array([np.sin(a), -np.cos(a), 0.0]) * np.sign(self.elevation)
        eye = centre + self.towards * distance
        matrix = QMatrix4x4()
        matrix.lookAt(QVector3D(*eye), QVector3D(*centre), QVector3D(*up))
        return matrix

    def to_clip(self, radius: float, width: float, height: float) -> QMatrix4x4:
        """From the viewer's space to the picture."""
        distance = radius / np.sin(np.radians(FIELD_OF_VIEW / 2))
        matrix = QMatrix4x4()
        matrix.translate(2 * self.shift[0] * height / max(width, 1.0), 2 * self.shift[1])
        matrix.scale(self.zoom, self.zoom, 1.0)
        if width < height:
            matrix.scale(width / height, width / height, 1.0)
        matrix.perspective(
            FIELD_OF_VIEW, width / max(height, 1.0), max(1.0, distance - 2 * radius), distance + 2 * radius
        )
        return matrix

    def project(
        self, world: Vector, centre: Vector, radius: float, width: float, height: float
    ) -> tuple[Vector, Vector]:
        """Where points are drawn.

        Args:
            world: ``(N, 3)`` in mm.
            centre: World position in the middle of the scene.
            radius: Of the ball around the scene, in mm.
            width: Of the picture, in any unit.
            height: In the same unit.

        Returns:
            ``(N, 2)`` places from the top left, and ``(N,)`` depths, -1 nearest to 1 farthest.
        """
        matrix = self.to_clip(radius, width, height) * self.to_eye(centre, radius)
        rows = np.array(matrix.copyDataTo(), np.float64).reshape(4, 4)
        clip = np.column_stack([world, np.ones(len(world))]) @ rows.T
        seen = clip[:, :3] / clip[:, 3:]
        places = np.column_stack([(seen[:, 0] + 1) / 2 * width, (1 - seen[:, 1]) / 2 * height])
        return places, seen[:, 2]


@dataclass(frozen=True, eq=False)
class Part:
    """One surface and what it is made of.

    Attributes:
        surface: Its shape.
        colour: ``#RRGGBB``.
        opacity: In its middle, 0..1; below 1 it is glass, of which the nearest layer alone is seen.
        rim: How much more of it is seen where it is met at a slant.
        shine: How bright the lamp is mirrored.
    """

    surface: Surface
    colour: str
    opacity: float = 1.0
    rim: float = 0.0
    shine: float = 0.18


@dataclass(frozen=True, eq=False)
class Sheet:
    """A flat rectangle: a plane of the crosshair.

    Attributes:
        corners: ``(4, 3)`` in mm, around the rectangle.
        colour: ``#RRGGBB`` of its edge.
        opacity: Of its edge, 0..1.
        picture: What is on it, clear and black where the sheet is to be cut out; None for the edge alone.
        places: ``(4, 2)`` where the corners lie in the picture, 0..1 to the right and down.
    """

    corners: Vector
    colour: str
    opacity: float
    picture: QImage | None = None
    places: Vector = field(default_factory=lambda: np.array(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))))


@dataclass(frozen=True, eq=False)
class Scene:
    """What is drawn.

    Attributes:
        parts: Surfaces, the inner ones first: each is drawn over those before it.
        sheets: Planes of the crosshair.
        background: ``#RRGGBB``.
        centre: ``(3,)`` world position in mm in the middle.
        radius: Of the ball in mm that has to be seen.
    """

    parts: tuple[Part, ...]
    sheets: tuple[Sheet, ...]
    background: str
    centre: Vector
    radius: float


@dataclass
class _Stored:
    """A surface on the graphics card."""

    points: QOpenGLBuffer
    order: QOpenGLBuffer
    count: int
    surface: Surface = field(repr=False)


class Renderer:
    """One OpenGL context without a window.

    Raises:
        NoOpenGL: There is none to be had.
    """

    def __init__(self) -> None:
        if os.environ.get(OFF):
            raise NoOpenGL(f"{OFF} is set")
        self._target = QOffscreenSurface()
        form = QSurfaceFormat()
        form.setDepthBufferSize(24)
        self._target.setFormat(form)
        self._target.create()
        self._context = QOpenGLContext()
        self._context.setFormat(form)
        if not (self._target.isValid() and self._context.create() and self._context.makeCurrent(self._target)):
            where = "over this connection" if _remote() else "on this computer"
            raise NoOpenGL(f"there is no OpenGL {where}")
        try:
            if not QOpenGLFramebufferObject.hasOpenGLFramebufferObjects():
                raise NoOpenGL("this computer's OpenGL is too old")
            self._gl = self._context.functions()
            self._solid = _program(_SURFACE_VERTEX, _SURFACE_FRAGMENT, ("position", "normal"))
            self._flat = _program(_FLAT_VERTEX, _FLAT_FRAGMENT, ("position", "place_in_picture"))
        finally:
            self._context.doneCurrent()
        self._stored: dict[int, _Stored] = {}
        self._buffers: dict[int, QOpenGLFramebufferObject] = {}

    @property
    def version(self) -> str:
        """What draws, for reports: ``"4.5 (Compatibility Profile) Mesa 22.3.6"``."""
        self._context.makeCurrent(self._target)
        words = str(self._gl.glGetString(_VERSION))
        self._context.doneCurrent()
        return words

    def draw(self, scene: Scene, camera: Camera, size: QSize, smooth: bool = True) -> QImage:
        """Draw a scene.

        Args:
            scene: What.
            camera: From where.
            size: Of the picture in pixels.
            smooth: Whether edges are smoothed; where the processor has to draw, that takes twice as long.

        Returns:
            An opaque picture.

        Raises:
            NoOpenGL: The graphics card was taken away, or has no room for the picture.
        """
        if not self._context.makeCurrent(self._target):
            raise NoOpenGL("OpenGL stopped working")
        try:
            buffer = self._buffer_of(size, SAMPLES if smooth else 0)
            if not buffer.bind():
                raise NoOpenGL("the graphics card has no room for the picture")
            self._draw(scene, camera, size)
            buffer.release()
            return buffer.toImage().convertToFormat(QImage.Format.Format_RGB32)
        finally:
            self._context.doneCurrent()

    def close(self) -> None:
        """Give everything on the graphics card back."""
        if self._context.makeCurrent(self._target):
            self._keep(())
            self._buffers.clear()
            for program in (self._solid, self._flat):
                program.removeAllShaders()
            self._context.doneCurrent()
        self._target.destroy()

    def _buffer_of(self, size: QSize, samples: int) -> QOpenGLFramebufferObject:
        buffer = self._buffers.get(samples)
        if buffer is None or buffer.size() != size:
            form = QOpenGLFramebufferObjectFormat()
            form.setAttachment(QOpenGLFramebufferObject.Attachment.Depth)
            form.setSamples(samples)
            buffer = QOpenGLFramebufferObject(size, form)
            if not buffer.isValid():
                raise NoOpenGL("the graphics card has no room for the picture")
            self._buffers[samples] = buffer
        return buffer

    def _draw(self, scene: Scene, camera: Camera, size: QSize) -> None:
        gl = self._gl
        ground = QColor(scene.background)
        gl.glViewport(0, 0, size.width(), size.height())
        gl.glClearColor(ground.redF(), ground.greenF(), ground.blueF(), 1.0)
        gl.glDepthMask(True)
        gl.glClear(_COLOUR_BUFFER | _DEPTH_BUFFER)
        gl.glEnable(_DEPTH_TEST)
        gl.glDepthFunc(_LESS_OR_EQUAL)
        gl.glDisable(_CULL_FACE)
        gl.glEnable(_BLEND)
        gl.glBlendFuncSeparate(_SOURCE_ALPHA, _ONE_LESS_SOURCE_ALPHA, _ONE, _ONE_LESS_SOURCE_ALPHA)
        to_eye = camera.to_eye(scene.centre, scene.radius)
        to_clip = camera.to_clip(scene.radius, size.width(), size.height())
        self._keep(tuple(part.surface for part in scene.parts))
        for part in scene.parts:
            if part.opacity >= 1:
                self._draw_part(part, to_eye, to_clip)
        for sheet in scene.sheets:
            self._draw_sheet(sheet, to_clip * to_eye, size)
        for part in scene.parts:
            if part.opacity < 1:
                # Depth alone first: of glass that is folded many times over, only the nearest layer is to be seen.
                gl.glColorMask(False, False, False, False)
                self._draw_part(part, to_eye, to_clip)
                gl.glColorMask(True, True, True, True)
                self._draw_part(part, to_eye, to_clip)

    def _draw_part(self, part: Part, to_eye: QMatrix4x4, to_clip: QMatrix4x4) -> None:
        stored, program = self._stored[id(part.surface)], self._solid
        colour = QColor(part.colour)
        program.bind()
        _set(program, b"to_eye", to_eye)
        _set(program, b"to_clip", to_clip)
        _set(program, b"colour", QVector4D(colour.redF(), colour.greenF(), colour.blueF(), part.opacity))
        _set_number(program, b"rim", part.rim)
        _set_number(program, b"shine", part.shine)
        stored.points.bind()
        stored.order.bind()
        for place, offset in ((0, 0), (1, 12)):
            program.enableAttributeArray(place)
            program.setAttributeBuffer(place, _FLOAT, offset, 3, 24)
        # Surfaces are closed: what faces away is always behind something.
        self._gl.glEnable(_CULL_FACE)
        self._gl.glDrawElements(_TRIANGLES, stored.count, _UNSIGNED_INT, _FROM_THE_START)
        self._gl.glDisable(_CULL_FACE)
        for place in (0, 1):
            program.disableAttributeArray(place)
        stored.order.release()
        stored.points.release()
        program.release()

    def _draw_sheet(self, sheet: Sheet, to_clip: QMatrix4x4, size: QSize) -> None:
        program, colour = self._flat, QColor(sheet.colour)
        program.bind()
        _set(program, b"to_clip", to_clip)
        _set(program, b"colour", QVector4D(colour.redF(), colour.greenF(), colour.blueF(), sheet.opacity))
        rows = np.zeros((4, 5), np.float32)
        rows[:, :3] = sheet.corners
        rows[:, 3:] = sheet.places
        points = _filled(QOpenGLBuffer.Type.VertexBuffer, rows)
        points.bind()
        for place, offset, count in ((0, 0, 3), (1, 12, 2)):
            program.enableAttributeArray(place)
            program.setAttributeBuffer(place, _FLOAT, offset, count, 20)
        if sheet.picture is not None:
            texture = QOpenGLTexture(sheet.picture, QOpenGLTexture.MipMapGeneration.DontGenerateMipMaps)
            texture.setMinMagFilters(QOpenGLTexture.Filter.Linear, QOpenGLTexture.Filter.Linear)
            texture.setWrapMode(QOpenGLTexture.WrapMode.ClampToEdge)
            texture.bind()
            _set_number(program, b"pictured", 1.0)
            self._gl.glDrawArrays(_TRIANGLE_FAN, 0, 4)
            texture.release()
            texture.destroy()
        _set_number(program, b"pictured", 0.0)
        self._gl.glLineWidth(max(1.0, size.height() / 900))
        self._gl.glDrawArrays(_LINE_LOOP, 0, 4)
        for place in (0, 1):
            program.disableAttributeArray(place)
        points.release()
        points.destroy()
        program.release()

    def _keep(self, surfaces: tuple[Surface, ...]) -> None:
        """Have these surfaces on the graphics card, and no others."""
        wanted = {id(surface): surface for surface in surfaces}
        for number in [number for number in self._stored if number not in wanted]:
            stored = self._stored.pop(number)
            stored.points.destroy()
            stored.order.destroy()
        for number, surface in wanted.items():
            if number not in self._stored:
                rows = np.concatenate([surface.points, surface.normals], axis=1).astype(np.float32)
                order = np.ascontiguousarray(surface.triangles, np.uint32)
                self._stored[number] = _Stored(
                    _filled(QOpenGLBuffer.Type.VertexBuffer, rows),
                    _filled(QOpenGLBuffer.Type.IndexBuffer, order),
                    order.size,
                    surface,
                )


def _program(vertex: str, fragment: str, attributes: tuple[str, ...]) -> QOpenGLShaderProgram:
    program = QOpenGLShaderProgram()
    for kind, text in ((QOpenGLShader.ShaderTypeBit.Vertex, vertex), (QOpenGLShader.ShaderTypeBit.Fragment, fragment)):
        if not program.addShaderFromSourceCode(kind, text):
            raise NoOpenGL("this computer's OpenGL is too old")
    for number, name in enumerate(attributes):
        program.bindAttributeLocation(name, number)
    if not program.link():
        raise NoOpenGL("this computer's OpenGL is too old")
    return program


def _filled(kind: QOpenGLBuffer.Type, rows: NDArray[np.generic]) -> QOpenGLBuffer:
    buffer = QOpenGLBuffer(kind)
    buffer.create()
    buffer.bind()
    content = rows.tobytes()
    buffer.allocate(content, len(content))
    buffer.release()
    return buffer


def _set(program: QOpenGLShaderProgram, name: bytes, value: QMatrix4x4 | QVector4D) -> None:
    program.setUniformValue(program.uniformLocation(name), value)


def _set_number(program: QOpenGLShaderProgram, name: bytes, value: float) -> None:
    program.setUniformValue1f(program.uniformLocation(name), value)


def _remote() -> bool:
    return "SSH_CONNECTION" in os.environ or QGuiApplication.platformName() == "vnc"
