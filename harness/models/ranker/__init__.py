"""Rankers: models that score every item for a user by what the user had before, read from a table of interactions."""
