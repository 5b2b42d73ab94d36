"""Proof of possession: challenges, digests, statements and verdicts, as values."""
