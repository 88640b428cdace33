"""What `datumctl` does: one file for each command, and what they share."""
