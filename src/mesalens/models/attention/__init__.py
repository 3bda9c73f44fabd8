"""Attention: heads, and the kinds of weights with which a row attends to others."""
