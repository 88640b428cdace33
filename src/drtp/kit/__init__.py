"""Tools with no domain word in them: the ground floor."""
