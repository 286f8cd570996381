"""The tests of minirnn; folders and files mirror the package."""
