"""From examples to batches of tensors, the same for any number of ranks; knows nothing of files or templates."""
