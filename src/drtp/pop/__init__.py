"""The POP host: a tunnel server in a point of presence. `run_pop` is its whole life."""

from drtp.pop.run import run_pop
from drtp.pop.settings import PopSettings

__all__ = ["PopSettings", "run_pop"]
