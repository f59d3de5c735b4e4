"""PDF files: checked, rendered and given a text layer, the untrusted ones in processes that may die."""
