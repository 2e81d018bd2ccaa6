"""One page for every published family: its sizes, its components, its training recipe, and where the numbers come from."""
