"""Pages that show a file, references or a validation."""
