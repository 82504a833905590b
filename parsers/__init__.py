"""One parser per data set: what a file name says about who is in the image and which camera took it."""
