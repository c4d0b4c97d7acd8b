"""What each kind of operator computes, in float and on integers, one file per group of kinds."""
