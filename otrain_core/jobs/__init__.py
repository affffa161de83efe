"""What one job of the workflow needs: log, failures, digest of code, provenance, resuming."""
