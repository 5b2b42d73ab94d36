"""Fixtures of the doors' tests; what they are made of is in `conftest_doors`."""

from conftest_doors import engine, serve

__all__ = ["engine", "serve"]
