"""Checkpoints: read, written, found by name, joined, published, and exported to other runtimes."""
