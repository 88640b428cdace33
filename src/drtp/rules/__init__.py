"""Pure decisions: facts in, conclusions out. No clock, no I/O, no randomness but what is handed in."""
