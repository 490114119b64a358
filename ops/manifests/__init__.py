"""What ops/check-manifests checks: one module per kind of file."""
