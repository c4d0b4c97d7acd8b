"""The verbs, by what they do; `zoo.api` has them all."""
