"""What crosses a process: kinds, snapshots, reports, the feed. Frozen and typed."""

import sys
from types import ModuleType

# The CEL package brings in its own command line, whose terminal libraries cost each start of a control plane 0.13 s.
sys.modules.setdefault("cel.cli", ModuleType("cel.cli"))
