"""The commands: each reads a typed configuration, calls one function of a room, and prints where the result lies."""
