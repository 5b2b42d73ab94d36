"""Proof of possession, `/rage/audit/1.0.0`, both ends."""
