"""The script that Envoy runs at each request (`script.lua`), with the names that it shares with the rest."""

from __future__ import annotations

from importlib import resources

from drtp.gateway.visitors import BROWSER_COOKIE, COOKIE, TOKENS_FILTER, VISIT_S

_NAMES = f'local VISIT, BROWSER, TOKENS, SECONDS = "{COOKIE}", "{BROWSER_COOKIE}", "{TOKENS_FILTER}", {VISIT_S}\n'

SCRIPT = _NAMES + resources.files("drtp.gateway").joinpath("script.lua").read_text(encoding="utf-8")
"""Lua."""
