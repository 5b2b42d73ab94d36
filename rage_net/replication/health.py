"""Health: how well distinct holders fill the slots that placement wants filled."""
