"""How often chunks are stored, where, and whether that is proved: rules, and the inventory."""
