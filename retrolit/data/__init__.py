"""From token stores to batches."""
