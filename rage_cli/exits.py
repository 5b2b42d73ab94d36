"""What each exit code means to the caller: one table for help pages, `rage help exit-codes` and the tests.

Source: design 4.5.
"""

from __future__ import annotations

EXITS = {
    0: ("done; for questions: yes, healthy", "nothing to do"),
    1: ("failed, uncategorised: a bug counts here", "report it"),
    2: ("usage: a flag, an argument, or a missing --yes without a terminal", "correct the command"),
    3: ("partial: some targets failed, each listed in `partial`", "retry the failed ones"),
    4: ("denied: ACL, trust, certificate, token or permission", "ask for access"),
    5: ("not found: chunk, document, peer, file", "look at the name"),
    6: ('findings: a check worked and its answer is "no"', "look at the findings"),
    7: ("unreachable or busy: node, peer or provider", "retry"),
    8: ("integrity: bytes do not match their CID, signature or schema", "get them elsewhere; verify"),
    9: ("conflict: a lock is held, already running, stale version, newer store", "look, then retry"),
    10: ("configuration invalid", "rage config check"),
    11: ("full: disk, quota or inodes", "free space, then retry"),
    124: ("--timeout ran out", "retry with more time"),
    130: ("interrupted (SIGINT), after clean-up", "-"),
    141: ("the reader of the pipe went away", "-"),
    143: ("terminated (SIGTERM), after clean-up", "-"),
}
"""Code -> (meaning, what to do next)."""
