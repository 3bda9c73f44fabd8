"""What is added to the labels of a regression task."""
