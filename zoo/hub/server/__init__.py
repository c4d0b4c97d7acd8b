"""The embedded hub: a server that huggingface_hub, `hf`, transformers, peft and git talk to.

```python
with zoo.hub.server.running(Path("hub")) as address:  # in this process, on a free port
    ...
```

`serving` starts `app`, which hands each request (`call`) to a route of `api` or `web`; these read
and write the `store`, or another hub's through the `mirror`. Imports only go down this list.
"""

from zoo.hub.server.common import Settings
from zoo.hub.server.serving import embedded, revoke, running, serve, token, tokens
from zoo.hub.server.store.garbage import collect

__all__ = ["Settings", "collect", "embedded", "revoke", "running", "serve", "token", "tokens"]
