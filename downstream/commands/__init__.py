"""The commands of stage two, one module each: its arguments, and what it runs."""
