"""Training: a mixture and a base model become an adapter."""
