"""A network as a C program, run instruction by instruction in valgrind's cachegrind."""
