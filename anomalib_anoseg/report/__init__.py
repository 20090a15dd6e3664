"""Pages and tables about results: runs -> comparison, a model's answers -> page."""
