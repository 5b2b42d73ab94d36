"""Fixtures of the command line's tests; what they are made of is in `conftest_cli`."""

from conftest_cli import home, node, rage

__all__ = ["home", "node", "rage"]
