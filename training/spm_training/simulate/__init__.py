"""Images with ground truth."""
