"""Why a place could not be connected to, in the operating system's own few words."""

from __future__ import annotations

import os

import aiohttp


def reason_of(error: aiohttp.ClientConnectorError) -> str:
    """`127.0.0.1:8443: Connection refused`."""
    number = error.os_error.errno or 0
    # Resolvers count below zero, and asyncio gives several refusals no number at all.
    words = os.strerror(number) if number > 0 else _words_of(error.os_error)
    host = f"[{error.host}]" if ":" in error.host else error.host
    return f"{host}:{error.port}: {words}"


def _words_of(error: OSError) -> str:
    if error.strerror:
        return error.strerror
    return "Connection refused" if "Connect call failed" in str(error) else str(error) or type(error).__name__
