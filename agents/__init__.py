"""What learns or calibrates a policy."""
