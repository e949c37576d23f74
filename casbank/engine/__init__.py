"""Commit, writer, reader, checkpoints: what the public ``Bank`` is made of."""
