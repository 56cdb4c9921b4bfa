"""The window and the command line. The only package that knows Qt."""

__version__ = "0.1.0"
