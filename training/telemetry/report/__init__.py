"""One self-contained HTML page, and pictures, from the journals of one or more runs."""
