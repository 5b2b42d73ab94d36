"""Chunks: how bytes are cut, addressed, stored, held and let go."""
