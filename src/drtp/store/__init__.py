"""Where objects live, and the cache that deciders read."""
