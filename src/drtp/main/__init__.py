"""Composition: settings, parts, commands."""
