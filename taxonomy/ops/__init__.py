"""Pure functions, with a plain reference beside every fast one."""
