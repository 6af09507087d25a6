"""What Redis holds: the layout, the one writer's scripts, the embedded server."""
