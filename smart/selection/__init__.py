"""The paper's two stages: a collection becomes a mixture."""
