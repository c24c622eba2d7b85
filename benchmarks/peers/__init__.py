"""How others do it, written from descriptions, to measure against."""
