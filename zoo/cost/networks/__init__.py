"""Random int8 networks with what a compiler says they cost: the data that predictors learn from."""
