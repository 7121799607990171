"""How texts become vectors: tokens, batches, runs of an engine, rows."""
