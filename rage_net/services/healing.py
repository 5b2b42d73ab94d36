"""Chunks that are held here and missing or rotten come back from a peer."""
