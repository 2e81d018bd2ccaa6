"""Checkpoints of other libraries, in and out: one engine, and one declarative table for each family."""
