"""Text: templates and tokens, group batches, log-probabilities, models, generation."""
