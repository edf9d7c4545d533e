"""Networks and their artifact: staged encoders, decoders, heads, initialization."""
