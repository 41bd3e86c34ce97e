"""One module for each format in which a hierarchy of references is kept."""
