# For the other extension modules only: formats.pxd.
