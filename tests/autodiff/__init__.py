"""Tests of minirnn.autodiff."""
