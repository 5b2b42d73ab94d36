"""Placement: which nodes hold a chunk."""
