"""What makes the documentation site besides the pages in docs/: generated pages, pictures, formulas and links."""
