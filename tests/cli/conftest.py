"""Fixtures of the command line's tests, which the modules `conftest_...` make."""

from conftest_cli import home, node, rage
from conftest_engine import engine
from conftest_terminal import terminal

__all__ = ["engine", "home", "node", "rage", "terminal"]
