"""Networks as they are exported: named tensors in, named tensors out, in the units that the runtime reads."""
