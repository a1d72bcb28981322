"""Tables from CSV files: reading, checking and feature encoding."""
