"""What minirnn's tests compare with: short NumPy code that shares nothing with minirnn."""
