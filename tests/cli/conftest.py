"""Fixtures of the command line's tests; what they are made of is in `conftest_cli` and `conftest_engine`."""

from conftest_cli import home, node, rage
from conftest_engine import engine

__all__ = ["engine", "home", "node", "rage"]
