"""The signed log of metadata, and what is built from it.

Floor 1, pure: envelope (chains and signatures), vocabulary, facts, payloads, rights (who counts), catalog (pycrdt).
Floor 2: schema and log (SQLite), with what the log is made of.
"""
