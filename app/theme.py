"""Every colour, font and measure of the window, in one place, for dark and for light."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import qtawesome
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QIcon, QPalette
from PySide6.QtWidgets import QApplication, QToolTip

from app import ASSETS

# Okabe and Ito: told apart by people who see red and green alike.
WHOLE_TUMOUR = "#56B4E9"
CORE = "#E69F00"
DISAGREEMENT = "#CC79A7"
# Lines that judge the preparation: the brain's outline, the edges of a scan on another.
CHECK = "#F0E442"

BODY_PX = 13
LABEL_PX = 11
TITLE_PX = 22
GAP = 8
RADIUS = 6


@dataclass(frozen=True)
class Colours:
    """The named colours of one appearance, as ``#RRGGBB``.

    Attributes:
        background: Behind everything.
        panel: The side panel, the header and the footer.
        raised: Buttons, the selected row, cards.
        hairline: The one-pixel lines between parts.
        text: What is read.
        secondary: What is read second.
        accent: The one colour that asks for attention.
        on_accent: Text on the accent.
        warning: The edge of a message that something did not work.
    """

    background: str
    panel: str
    raised: str
    hairline: str
    text: str
    secondary: str
    accent: str
    on_accent: str
    warning: str


DARK = Colours("#0E1116", "#151A21", "#1C232C", "#2A323D", "#E6EAF0", "#98A3B3", "#4FB3FF", "#0E1116", "#E69F00")
LIGHT = Colours("#F6F7F9", "#FFFFFF", "#EEF1F5", "#D5DBE3", "#1B2430", "#5B6675", "#0B6FC2", "#FFFFFF", "#B26A00")


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def blend(colour: str, onto: str, amount: float) -> str:
    """``amount`` (0..1) of ``colour`` mixed into ``onto``."""
    a, b = QColor(colour), QColor(onto)
    parts = zip((a.red(), a.green(), a.blue()), (b.red(), b.green(), b.blue()), strict=True)
    return "#" + "".join(f"{round(x * amount + y * (1 - amount)):02X}" for x, y in parts)


def body_font(pixels: int = BODY_PX, medium: bool = False) -> QFont:
    """The window's font with tabular figures, so that numbers do not dance when they change."""
    font = QFont(QApplication.font())
    font.setPixelSize(pixels)
    font.setWeight(QFont.Weight.Medium if medium else QFont.Weight.Normal)
    font.setFeature(QFont.Tag("tnum"), 1)
    return font


class Theme(QObject):
    """Which appearance is on, and everything drawn from it.

    Signals:
        changed: The colours are others now; icons and hand-drawn parts redraw themselves.
    """

    changed = Signal()

    def __init__(self, appearance: str = "system", parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._appearance = appearance
        _choose_font()
        self._icons: dict[tuple[str, str], QIcon] = {}
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._system_changed)
        self._apply()

    @property
    def appearance(self) -> str:
        """``"system"``, ``"dark"`` or ``"light"``."""
        return self._appearance

    @property
    def colours(self) -> Colours:
        """The colours in force."""
        if self._appearance == "system":
            light = QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Light
        else:
            light = self._appearance == "light"
        return LIGHT if light else DARK

    def choose(self, appearance: str) -> None:
        """Follow the system, or stay dark or light."""
        if appearance != self._appearance:
            self._appearance = appearance
            self._apply()

    def icon(self, name: str, colour: str | None = None) -> QIcon:
        """An icon of the one family used (Phosphor), in the secondary text colour unless told otherwise."""
        paint = colour or self.colours.secondary
        if (name, paint) not in self._icons:
            faint = blend(paint, self.colours.panel, 0.45)
            # A dictionary of options that the library changes is shared with its cache: pass plain values only.
            self._icons[name, paint] = qtawesome.icon(f"ph.{name}", color=paint, color_disabled=faint)
        return self._icons[name, paint]

    def _system_changed(self) -> None:
        if self._appearance == "system":
            self._apply()

    def _apply(self) -> None:
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        c = self.colours
        palette = QPalette()
        roles = QPalette.ColorRole
        for role, colour in {
            roles.Window: c.background,
            roles.WindowText: c.text,
            roles.Base: c.panel,
            roles.AlternateBase: c.raised,
            roles.Text: c.text,
            roles.Button: c.raised,
            roles.ButtonText: c.text,
            roles.Highlight: c.accent,
            roles.HighlightedText: c.on_accent,
            roles.ToolTipBase: c.raised,
            roles.ToolTipText: c.text,
            roles.PlaceholderText: c.secondary,
            roles.Link: c.accent,
        }.items():
            palette.setColor(role, QColor(colour))
        faint = QColor(blend(c.secondary, c.panel, 0.6))
        for role in (roles.WindowText, roles.Text, roles.ButtonText):
            palette.setColor(QPalette.ColorGroup.Disabled, role, faint)
        application.setPalette(palette)
        QToolTip.setPalette(palette)
        application.setStyleSheet(_stylesheet(c))
        self._icons.clear()
        self.changed.emit()


def _choose_font() -> None:
    """Take the system's font; where a machine has none worth the name, take Inter from our assets.

    A Linux machine without a desktop answers with DejaVu or with nothing at all, and the window would show boxes.
    """
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont)
    if sys.platform.startswith("linux") and font.family() in {"", "Sans", "Sans Serif", "DejaVu Sans", "Sans-serif"}:
        for file in ("Inter-Medium.otf", "Inter-Regular.otf"):
            number = QFontDatabase.addApplicationFont(str(ASSETS / "fonts" / file))
            # The heavier one, first, only joins the family.
            for family in QFontDatabase.applicationFontFamilies(number)[:1]:
                font = QFont(family)
    font.setPixelSize(BODY_PX)
    # Positions between pixels look blurred on plain screens, whole pixels look uneven: leave the first to dense ones.
    font.setHintingPreference(QFont.HintingPreference.PreferNoHinting)
    font.setFeature(QFont.Tag("tnum"), 1)
    QApplication.setFont(font)


def _stylesheet(c: Colours) -> str:
    hover = blend(c.text, c.raised, 0.08)
    pressed = blend(c.text, c.raised, 0.14)
    faint = blend(c.secondary, c.panel, 0.6)
    accent_hover = blend(c.text, c.accent, 0.12)
    # The colour alone would not tell a tick from a button; a picture of a style sheet is named by its file.
    tick = (ASSETS / "icons" / ("tick-dark.svg" if c == DARK else "tick-light.svg")).as_posix()
    return f"""
QWidget {{ color: {c.text}; font-size: {BODY_PX}px; }}
QMainWindow, #surface {{ background: {c.background}; }}
QToolTip {{ background: {c.raised}; color: {c.text}; border: 1px solid {c.hairline}; padding: 5px 7px; }}

#header, #footer, #panel, #panelBody, #readout, #cell, #bar, #rail, #foot {{ background: {c.panel}; }}
#header {{ border-bottom: 1px solid {c.hairline}; }}
#footer, #foot {{ border-top: 1px solid {c.hairline}; }}
#rail {{ border-right: 1px solid {c.hairline}; }}
#bar {{ border-bottom: 1px solid {c.hairline}; }}
#lines {{ background: {c.hairline}; }}
#black {{ background: black; }}
#onBlack {{ color: {DARK.secondary}; background: black; }}
#readout {{ border-top: 1px solid {c.hairline}; }}
#panel {{ border: none; border-right: 1px solid {c.hairline}; }}
#section {{ background: transparent; border: none; border-bottom: 1px solid {c.hairline}; }}
#section[last="true"] {{ border-bottom: none; }}
#wordmark {{ font-size: 15px; font-weight: 500; }}
#title {{ font-size: {TITLE_PX}px; }}
#figure {{ font-size: 18px; }}
#caption {{ font-size: {LABEL_PX}px; color: {c.secondary}; letter-spacing: 0.6px; }}
#secondary {{ color: {c.secondary}; }}
#small {{ font-size: {LABEL_PX}px; color: {c.secondary}; }}
#footer QLabel, #readout QLabel {{ font-size: {LABEL_PX}px; color: {c.secondary}; }}

QPushButton, QToolButton {{
    background: {c.raised}; border: 1px solid {c.hairline}; border-radius: {RADIUS}px;
    padding: 0 12px; min-height: 30px; max-height: 30px;
}}
QPushButton:hover, QToolButton:hover {{ background: {hover}; }}
QPushButton:pressed, QToolButton:pressed {{ background: {pressed}; }}
QPushButton:focus, QToolButton:focus {{ border: 1px solid {c.accent}; }}
QPushButton:disabled, QToolButton:disabled {{ color: {faint}; background: {c.panel}; }}
QPushButton#primary {{
    background: {c.accent}; color: {c.on_accent}; border: 1px solid {c.accent}; font-weight: 500;
    min-height: 34px; max-height: 34px;
}}
QPushButton#primary:hover {{ background: {accent_hover}; border-color: {accent_hover}; }}
QPushButton#primary:focus {{ border: 2px solid {c.text}; }}
QPushButton#primary:disabled {{ background: {c.raised}; color: {c.secondary}; border: 1px solid {c.hairline}; }}
QPushButton#compact {{ padding: 0 6px; min-height: 28px; max-height: 28px; }}
QCheckBox {{ spacing: 7px; border: 1px solid transparent; border-radius: 4px; padding: 3px 4px 3px 0; }}
QCheckBox:focus {{ border: 1px solid {c.accent}; }}
QCheckBox:disabled {{ color: {faint}; }}
QCheckBox::indicator {{
    width: 13px; height: 13px; border: 1px solid {c.secondary}; border-radius: 3px; background: {c.panel};
}}
QCheckBox::indicator:checked {{ background: {c.accent}; border-color: {c.accent}; image: url("{tick}"); }}
QCheckBox::indicator:disabled {{ border-color: {c.hairline}; }}
QPushButton#large {{ min-height: 34px; max-height: 34px; }}
QPushButton#link {{
    background: transparent; border: 1px solid transparent; color: {c.accent}; padding: 0; text-align: left;
    min-height: 24px; max-height: 24px;
}}
QPushButton#link:hover {{ color: {c.text}; }}
QPushButton#link:disabled {{ color: {faint}; }}
QPushButton#link:focus {{ border: 1px solid {c.accent}; }}
QPushButton#flat, QToolButton#flat {{
    background: transparent; border: 1px solid transparent; padding: 0 8px;
}}
#rail QPushButton#flat {{ text-align: left; }}
QPushButton#flat:hover, QToolButton#flat:hover {{ background: {c.raised}; }}
QPushButton#flat:focus, QToolButton#flat:focus {{ border: 1px solid {c.accent}; }}
QPushButton::menu-indicator, QToolButton::menu-indicator {{ image: none; width: 0; }}
QToolButton#icon {{
    background: transparent; border: 1px solid transparent; padding: 0;
    min-width: 26px; max-width: 26px; min-height: 26px; max-height: 26px;
}}
QToolButton#icon:hover {{ background: {hover}; }}
QToolButton#icon:checked {{ background: {blend(c.text, c.raised, 0.10)}; }}
QToolButton#icon:focus {{ border: 1px solid {c.accent}; }}
QPushButton#chip {{
    background: transparent; color: {c.secondary}; padding: 0 14px; min-height: 28px; max-height: 28px; min-width: 34px;
}}
QPushButton#chip:hover {{ color: {c.text}; background: {c.raised}; }}
QPushButton#chip:checked {{
    background: {blend(c.accent, c.panel, 0.20)}; color: {c.text}; border: 1px solid {blend(c.accent, c.panel, 0.6)};
}}
QPushButton#chip:focus {{ border: 1px solid {c.accent}; }}
QRadioButton {{ spacing: 7px; border: 1px solid transparent; border-radius: 4px; padding: 3px 4px 3px 0; }}
QRadioButton:focus {{ border: 1px solid {c.accent}; }}
QRadioButton:disabled {{ color: {faint}; }}
QRadioButton::indicator {{
    width: 13px; height: 13px; border: 1px solid {c.secondary}; border-radius: 7px; background: {c.panel};
}}
QRadioButton::indicator:checked {{ border: 4px solid {c.accent}; width: 7px; height: 7px; }}
QRadioButton::indicator:disabled {{ border-color: {c.hairline}; }}
QPushButton#segment {{
    background: transparent; border: 1px solid transparent; color: {c.secondary}; padding: 0 10px;
    min-height: 24px; max-height: 24px; border-radius: 5px;
}}
QPushButton#segment:hover {{ color: {c.text}; }}
QPushButton#segment:checked {{ background: {blend(c.text, c.raised, 0.10)}; color: {c.text}; }}
QPushButton#segment:focus {{ border: 1px solid {c.accent}; }}
#segments {{ background: {c.raised}; border: 1px solid {c.hairline}; border-radius: {RADIUS}px; }}

QPushButton#menu {{ text-align: left; padding: 0 30px 0 12px; }}
QPushButton#finding {{
    background: transparent; border: 1px solid transparent; border-radius: {RADIUS}px; padding: 0 8px;
    text-align: left; min-height: 24px; max-height: 24px;
}}
QPushButton#finding:hover {{ background: {c.raised}; }}
QPushButton#finding[here="true"] {{ background: {blend(c.accent, c.panel, 0.16)}; }}
QPushButton#finding:focus {{ border: 1px solid {c.accent}; }}
#row {{
    background: transparent; border: 1px solid transparent; border-radius: {RADIUS}px; padding: 0;
    min-height: 40px; max-height: 40px;
}}
#row:hover {{ background: {c.raised}; }}
#row[shown="true"] {{ background: {blend(c.accent, c.panel, 0.16)}; }}
#row:focus {{ border: 1px solid {c.accent}; }}

#banner {{
    background: {c.raised}; border: 1px solid {c.hairline}; border-left: 3px solid {c.warning};
    border-radius: {RADIUS}px;
}}
#banner[kind="note"] {{ border-left: 3px solid {c.accent}; }}
#card {{ background: {c.panel}; border: 1px solid {c.hairline}; border-radius: 10px; }}
#doubt {{
    background: {c.raised}; border: 1px solid {c.hairline}; border-left: 3px solid {c.warning};
    border-radius: {RADIUS}px; padding: 6px 8px; font-size: {LABEL_PX + 1}px;
}}
#slot {{ background: {c.raised}; border: 1px solid {c.hairline}; border-radius: {RADIUS}px; }}
#series {{ border: 1px solid {c.hairline}; border-radius: {RADIUS}px; }}
#key {{
    background: {c.raised}; border: 1px solid {c.hairline}; border-radius: 4px; padding: 1px 6px;
    font-size: {LABEL_PX}px;
}}

QProgressBar {{
    background: {c.raised}; border: none; border-radius: 3px; min-height: 6px; max-height: 6px; color: transparent;
}}
QProgressBar::chunk {{ background: {c.accent}; border-radius: 3px; }}

QSlider::groove:horizontal {{ background: {c.hairline}; height: 4px; border-radius: 2px; }}
QSlider::sub-page:horizontal {{ background: {c.accent}; height: 4px; border-radius: 2px; }}
QSlider::handle:horizontal {{
    background: {c.text}; width: 14px; height: 14px; margin: -5px 0; border-radius: 7px; border: none;
}}
QSlider::handle:horizontal:hover, QSlider::handle:horizontal:focus {{ background: {c.accent}; }}
QSlider:disabled {{ color: {faint}; }}
QSlider::sub-page:horizontal:disabled {{ background: {c.hairline}; }}
QSlider::handle:horizontal:disabled {{ background: {faint}; }}

QSpinBox, QDoubleSpinBox {{
    background: {c.panel}; border: 1px solid {c.hairline}; border-radius: {RADIUS}px; padding: 0 6px; min-height: 28px;
    selection-background-color: {c.accent}; selection-color: {c.on_accent};
}}
QSpinBox:disabled, QDoubleSpinBox:disabled {{ color: {faint}; }}
QSpinBox::up-button, QSpinBox::down-button, QDoubleSpinBox::up-button, QDoubleSpinBox::down-button {{
    width: 0; border: none;
}}
QSpinBox:focus, QDoubleSpinBox:focus {{ border: 1px solid {c.accent}; }}
QLineEdit {{
    background: {c.panel}; border: 1px solid {c.hairline}; border-radius: {RADIUS}px; padding: 0 8px; min-height: 28px;
    selection-background-color: {c.accent}; selection-color: {c.on_accent};
}}
QPlainTextEdit {{
    background: {c.panel}; border: 1px solid {c.hairline}; border-radius: {RADIUS}px; padding: 4px 6px;
    selection-background-color: {c.accent}; selection-color: {c.on_accent};
}}
QPlainTextEdit:focus {{ border: 1px solid {c.accent}; }}
QPlainTextEdit:disabled {{ color: {faint}; }}
QComboBox {{
    background: {c.raised}; border: 1px solid {c.hairline}; border-radius: {RADIUS}px; padding: 0 10px;
    min-height: 30px; max-height: 30px;
}}
QComboBox:hover {{ background: {hover}; }}
QComboBox:focus {{ border: 1px solid {c.accent}; }}
QComboBox:disabled {{ color: {faint}; background: {c.panel}; }}
QComboBox::drop-down {{ border: none; width: 26px; }}
QComboBox QAbstractItemView {{
    background: {c.raised}; border: 1px solid {c.hairline};
    selection-background-color: {blend(c.accent, c.raised, 0.25)};
    selection-color: {c.text}; outline: none; padding: 4px;
}}
QLineEdit:focus {{ border: 1px solid {c.accent}; }}
QLineEdit:disabled {{ color: {faint}; }}
#tools {{ background: {c.panel}; border-top: 1px solid {c.hairline}; border-bottom: 1px solid {c.hairline}; }}
#detail {{ background: {c.panel}; border: none; border-left: 1px solid {c.hairline}; }}
#note {{
    background: {c.background}; border: 1px solid {c.hairline}; border-left: 3px solid {c.secondary};
    border-radius: {RADIUS}px;
}}
#note[grave="true"] {{ border-left: 3px solid {c.warning}; }}
QTableView {{ background: {c.panel}; border: none; outline: none; }}
QTableView:focus {{ border: 1px solid {c.accent}; }}
QHeaderView, QHeaderView::section {{
    background: {c.panel}; color: {c.secondary}; font-size: {LABEL_PX}px; border: none;
}}
QHeaderView::section {{ border-bottom: 1px solid {c.hairline}; padding: 0 8px; }}
QHeaderView::section:hover {{ color: {c.text}; }}
QMenu {{ background: {c.raised}; border: 1px solid {c.hairline}; padding: 5px; }}
QMenu::item {{ padding: 6px 26px 6px 12px; border-radius: 4px; }}
QMenu::item:selected {{ background: {blend(c.accent, c.raised, 0.25)}; }}
QMenu::item:disabled {{ color: {c.secondary}; }}
QMenu::separator {{ height: 1px; background: {c.hairline}; margin: 5px 8px; }}
QMenu::indicator {{ width: 14px; height: 14px; left: 6px; }}

QSplitter::handle {{ background: {c.hairline}; }}
QSplitter::handle:hover {{ background: {c.accent}; }}
QScrollArea {{ border: none; background: transparent; }}
QScrollBar:vertical {{ background: transparent; width: 10px; margin: 2px; }}
QScrollBar::handle:vertical {{ background: {c.hairline}; border-radius: 3px; min-height: 30px; }}
QScrollBar::handle:vertical:hover {{ background: {c.secondary}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
"""
