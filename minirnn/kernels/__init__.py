"""The compiled time loop. Nothing here is imported, nor Numba with it, before the cpu engine is first used."""
