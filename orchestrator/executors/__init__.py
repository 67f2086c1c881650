"""What runs stages: in this process, or on Ray."""
