"""The caller's side of the doors: identity on disk, feed, API."""
