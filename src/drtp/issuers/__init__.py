"""The internal certificate authority, one-time secrets and tokens."""
