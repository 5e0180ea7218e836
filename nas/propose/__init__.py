"""The stage that writes candidates: it takes a space and what is known so far, and returns source text.

`grammar` samples fresh candidates from the space's primitives (the random arm), `evolution` changes and crosses
existing ones, whoever wrote them; `source` and `widths` are how both read a candidate without running it. Nothing here
executes candidate code or imports JAX: whether a child really fits together is found out by the tracer.
"""
