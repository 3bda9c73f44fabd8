"""Where the inputs x of a task come from."""
