"""The verbs of the noun replication: a plain function each. The engine takes `VERBS` into its own table."""
