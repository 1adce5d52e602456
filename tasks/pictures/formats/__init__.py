"""One file per container, and `table.py`, which lists them all: nothing else of the project switches on their names."""
