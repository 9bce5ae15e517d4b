"""Restorers by other methods, to compare with."""
