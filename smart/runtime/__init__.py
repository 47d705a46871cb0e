"""What every stage runs on: atomic files, manifests, locks, threads, progress, tracking, the style of figures."""
