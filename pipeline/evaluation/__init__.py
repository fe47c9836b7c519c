"""What a student is worth: measures, samples of text, and the page that shows them."""
