"""Files that are whole or not there, manifests, and resumable blocks of work."""
