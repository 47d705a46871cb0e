"""The commands: the only place where rooms meet."""
