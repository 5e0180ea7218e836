"""Recall: what a sequence model can look up, copy, compress and memorise, in six synthetic tasks."""
