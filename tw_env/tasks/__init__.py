"""Tasks: prompts, references and the metric that scores a finished text."""
