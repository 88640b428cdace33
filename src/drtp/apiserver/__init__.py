"""The door for people and kubectl: Kubernetes API conventions, over TLS."""
