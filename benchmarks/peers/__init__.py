"""Loops of other code bases, written from their descriptions, to compare with."""
