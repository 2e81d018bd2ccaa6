"""Studies of scaling: a file is all that is trained, and what is predicted before it is trained."""
