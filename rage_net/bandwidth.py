"""Bandwidth: token buckets for the lanes of traffic, and who goes first. `now` comes in."""
