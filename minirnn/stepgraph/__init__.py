"""One time step as data: recorded on shapes, differentiated, split, interpreted."""
