"""Is a model good, at what, and can one trust the answer: perplexity, overlap with what was retrieved, leakage."""
