"""The error that a page or a picture raises that cannot be written."""


class PageError(ValueError):
    """A page or a picture that cannot be written where the user wants it; one line."""
