"""Small wrong changes to the source, and how many of them the tests notice (`make mutants`)."""
