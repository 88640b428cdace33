"""The tunnel alone, beside its peers: `python -m bench.tunnel`. One harness, paired runs, every payload checked."""
