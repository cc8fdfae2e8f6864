"""Load a network by name or file as one exported graph with one name per layer."""
