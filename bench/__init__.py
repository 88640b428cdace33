"""Figures, printed by command: `python -m bench` runs all, `python -m bench NAME` one. Nothing here is a test."""
