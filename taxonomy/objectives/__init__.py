"""What a sequence of tokens becomes: every way to make a training example, see `objective`."""
