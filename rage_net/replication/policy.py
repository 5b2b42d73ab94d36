"""Policies: how often a document is stored, and why."""
