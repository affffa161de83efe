"""The article's figures, tables and claims."""
