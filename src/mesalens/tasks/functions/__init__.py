"""What maps the inputs of a task to its labels."""
