"""reconcile(key, world, now) -> writes: from what is wanted and seen to what is so."""
