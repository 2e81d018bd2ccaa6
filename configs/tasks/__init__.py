"""Tasks stated as text: what is given, what is wanted, and how answers are scored, for a model of a page beside this folder."""
