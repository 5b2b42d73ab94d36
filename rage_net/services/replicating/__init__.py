"""One node's share of replication: what it pulls, audits, asks others to hold, and drops."""
