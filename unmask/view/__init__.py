"""Pictures of a decode: in the terminal, and as an HTML page."""
