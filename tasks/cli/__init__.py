"""The commands of `python -m tasks`."""
