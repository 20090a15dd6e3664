"""Figures in constant memory, and which of them a test reports."""
