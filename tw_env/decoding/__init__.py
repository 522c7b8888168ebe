"""Language models as batched writers: loading a pair, and rows of text over one key/value cache."""
