"""Volumes in space, reading, preparing, models, inference, metrics and export. No Qt anywhere below here."""
