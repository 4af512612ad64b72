# For the other extension modules only: waiting.pxd.
