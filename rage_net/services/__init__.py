"""Flows over several subjects each; collaborators come by constructor, and none imports another."""
