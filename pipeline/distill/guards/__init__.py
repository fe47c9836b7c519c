"""What watches over a training, and steps in."""
