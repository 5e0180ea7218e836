"""Train an exported program: bytes, data and numbers in, a learning curve and a checkpoint out. No candidate code."""
