"""The compiled time loop for CUDA: printed from the same loop programs, compiled by numba-cuda."""
