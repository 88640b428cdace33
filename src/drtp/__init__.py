"""DRTP, the Datum Reverse Tunnel Proxy. ARCHITECTURE.md shows the rooms and the ways through them."""

__version__ = "0.1.0"
