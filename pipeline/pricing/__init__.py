"""What a config will cost before it runs, measured on the user's own machine, models and text."""
