"""The embedded hub: a server that huggingface_hub, `hf`, transformers, peft and git talk to.

```python
with zoo.hub.server.running(Path("hub")) as address:  # in this process, on a free port
    ...
```
"""

from zoo.hub.server.serving import embedded, running, serve, token

__all__ = ["embedded", "running", "serve", "token"]
