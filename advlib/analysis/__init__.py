"""What lies around an image and inside a network: loss, linearity, activations, attribution."""
