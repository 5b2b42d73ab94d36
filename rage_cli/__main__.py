"""The entry point: `--version` and completion with the standard library only; everything else goes to `app`.

These two answer in little more than a bare Python's time, so nothing may be imported here that they do not need.
"""

import sys


def main() -> None:
    """Run `rage` with the process's arguments, and exit."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from rage_net import __version__

        sys.stdout.write(f"rage {__version__}\n")
    elif arguments[:1] == ["__complete"]:
        from rage_cli.complete import complete

        complete(arguments[1:])
    else:
        import gc
        import os

        gc.disable()  # importing makes no garbage; who does more than ask a node turns it on again
        from rage_cli.app import main as run

        # Tearing the interpreter down costs as much as a bare start; `run` has flushed what was written.
        os._exit(run(arguments))


if __name__ == "__main__":
    main()
