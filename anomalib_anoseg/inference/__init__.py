"""From an exported model to results: frames -> segmenter -> records. Needs no torch."""
