"""Tests of minirnn/stepgraph/: steps as data, drawn at random and written by hand."""
