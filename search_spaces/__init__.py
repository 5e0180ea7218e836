"""Search spaces that come with the engine, one folder each; copy one to start your own."""
