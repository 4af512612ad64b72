"""Keys and values in shared memory, for all processes of a machine.

serving     server processes that speak Redis' protocol over a cache
"""
