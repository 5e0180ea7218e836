"""Fast operations that candidates may call by name; each is one file with its formula, reference and cases."""
