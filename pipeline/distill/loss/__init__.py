"""What a position is taught, and the gradient of it: from hidden states through the head to a number."""
