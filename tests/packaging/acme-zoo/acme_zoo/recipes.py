"""Read by every `zoo list`: no torch here."""

from zoo import Recipe, Train

RECIPES = (
    Recipe(
        name="acme-trend",
        summary="Whether a series of 16 numbers falls or rises",
        task="tabular-classification",  # the Hub's pipeline_tag
        subtask="acme-trend",  # the task below
        model="acme_zoo.nets:Trend",
        args={"length": 16, "width": 8},
        input_shape=(1, 16),
        preprocessing={"range": [-1, 1], "labels": ["falling", "rising"]},
        make=Train(steps=60, batch_size=16, lr=1e-2, log_every=20, eval_every=20, save_every=60),
        default_tag="own",
        paper="2103.09404",
    ),
)
