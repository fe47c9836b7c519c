"""How much each part of the loss counts, at which step and where."""
