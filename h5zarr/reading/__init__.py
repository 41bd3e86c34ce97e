"""Reading what references point to, as a store of zarr-python: the engine under xarray."""
