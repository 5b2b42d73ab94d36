"""The fault lab: whole engines in virtual time, real processes with a nemesis, and a checker of what was promised."""
