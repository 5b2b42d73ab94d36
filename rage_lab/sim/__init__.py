"""Whole engines in one process: a network in memory, a virtual clock, one seed."""
