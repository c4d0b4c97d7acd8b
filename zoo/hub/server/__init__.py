"""The embedded hub: a server that huggingface_hub, `hf`, transformers, peft and git talk to.

```python
from pathlib import Path

from zoo.hub.server import running

with running(Path("hub")) as address:  # in this process, on a free port
    print(address)
```

`serving` starts `app`, which hands each request (`call`) that may come in (`door`) to a route of
`api` or `web`; these read and write the `store`, or another hub's through the `mirror`. What may
take long has threads (`pool`) and processor time (`budget`) of its own. Imports only go down.
"""

from zoo.hub.server.common import Settings
from zoo.hub.server.serving import embedded, revoke, running, serve, token, tokens
from zoo.hub.server.store.garbage import collect

__all__ = ["Settings", "collect", "embedded", "revoke", "running", "serve", "token", "tokens"]
