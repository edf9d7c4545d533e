"""Stage two: reuse the lower layers under a new head, and measure what that saves."""
