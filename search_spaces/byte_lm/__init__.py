"""Byte-level language models: the next byte of real text, or the next token of a token file."""
