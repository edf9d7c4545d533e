"""The commands of `python -m data`, one module each: its arguments, and what it runs."""
