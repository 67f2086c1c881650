"""A congestion control by another author."""
