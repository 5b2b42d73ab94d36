"""rage_net: the engine of a distributed knowledge network, usable by any program.

Knows no command line: no typer, rich, print or sys.exit. The command line lives in `rage_cli`.
"""

__version__ = "0.1.0"
