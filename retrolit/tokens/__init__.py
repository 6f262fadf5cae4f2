"""From text to documents to tokens."""
