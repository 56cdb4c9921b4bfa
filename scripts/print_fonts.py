"""Make the fonts of reports and figures from those of the window: ``python scripts/print_fonts.py``.

A page of PDF embeds TrueType outlines, which every reader takes, and the fonts of the window have PostScript ones.
Numbers on paper stand in columns, so all digits get the same width. Latin, Greek and Cyrillic letters and signs are
kept. Outlines are within a thousandth of the height of a letter of those they come from. The same fonts give the same
bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools import subset
from fontTools.pens.cu2quPen import Cu2QuPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont, newTable

FONTS = Path(__file__).resolve().parent.parent / "assets" / "fonts"
LETTERS = [*range(0x20, 0x530), *range(0x1E00, 0x1F00), *range(0x2000, 0x2300)]
# Of the 2816 units that a letter is high.
CLOSE = 2.0


def make(name: str) -> Path:
    """Write the print version of one font beside it."""
    font = TTFont(FONTS / f"{name}.otf", recalcTimestamp=False)
    _same_width(font)
    wanted = subset.Options(layout_features=[], hinting=False, notdef_outline=True, recalc_timestamp=False)
    subsetter = subset.Subsetter(wanted)
    subsetter.populate(unicodes=LETTERS)
    subsetter.subset(font)
    _truetype(font)
    path = FONTS / f"{name}-Print.ttf"
    font.save(path)
    return path


def _same_width(font: TTFont) -> None:
    """Put the tabular digits in the place of the usual ones."""
    rules = font["GSUB"].table
    numbers = {
        number
        for record in rules.FeatureList.FeatureRecord
        if record.FeatureTag == "tnum"
        for number in record.Feature.LookupListIndex
    }
    # Substitutions of one letter by one, some of them wrapped so that they may lie far off in the file.
    parts = [part for number in sorted(numbers) for part in rules.LookupList.Lookup[number].SubTable]
    for table in font["cmap"].tables:
        for part in parts:
            mapping = getattr(getattr(part, "ExtSubTable", part), "mapping", {})
            for digit in "0123456789":
                name = table.cmap.get(ord(digit))
                table.cmap[ord(digit)] = mapping.get(name, name)


def _truetype(font: TTFont) -> None:
    """Turn cubic outlines into quadratic ones."""
    letters, order = font.getGlyphSet(), font.getGlyphOrder()
    glyphs = {}
    for name in order:
        pen = TTGlyphPen(letters)
        letters[name].draw(Cu2QuPen(pen, CLOSE, reverse_direction=True))
        glyphs[name] = pen.glyph()
    font["loca"] = newTable("loca")
    outlines = font["glyf"] = newTable("glyf")
    outlines.glyphOrder, outlines.glyphs = order, glyphs
    for name in order:
        width, _ = font["hmtx"][name]
        outlines[name].recalcBounds(outlines)
        font["hmtx"][name] = (width, getattr(outlines[name], "xMin", 0))
    most = font["maxp"]
    most.tableVersion = 0x00010000
    for field in (
        "maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs", "maxStackElements",
        "maxSizeOfInstructions", "maxComponentElements",
    ):  # fmt: skip
        setattr(most, field, 0)
    most.maxZones = 1
    # Names of letters take room and serve nobody.
    font["post"].formatType = 3.0
    for name in ("CFF ", "VORG", "GDEF", "GPOS", "GSUB"):
        if name in font:
            del font[name]
    font.sfntVersion = "\x00\x01\x00\x00"


if __name__ == "__main__":
    for font_name in sys.argv[1:] or ("Inter-Regular", "Inter-Medium"):
        print(make(font_name))  # noqa: T201 - a script that says what it wrote
