"""What `h5zarr.combine` is made of: one module for each question that joining many files raises."""
