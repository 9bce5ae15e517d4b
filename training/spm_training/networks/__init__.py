"""Networks as plain `torch.nn.Module` classes; they know nothing of recipes, data or files."""
