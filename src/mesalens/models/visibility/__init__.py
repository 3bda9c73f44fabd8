"""What a token sees: which rows are its keys."""
