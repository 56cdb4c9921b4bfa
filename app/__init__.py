"""The window and the command line. The only package that knows Qt."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEMO = ASSETS / "demo"
