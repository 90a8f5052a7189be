"""Models of other systems, in both directions: one module per system, and whole directories in `directory`."""
