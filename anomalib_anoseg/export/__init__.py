"""Exported files that are complete, say what they are, and keep their maps in 8 bits."""
