"""Usage: how often documents are asked for, decaying, and when that changes a policy."""
