"""Which hub is meant, and what its messages advise."""

import pytest

from zoo.hub import client
from zoo.hub.where import PUBLIC, Place


class Refusal:
    """An answer of a hub."""

    def __init__(self, status_code, code):
        self.status_code, self.headers = status_code, {"X-Error-Code": code}


@pytest.mark.parametrize("token", [None, "hf_" + "a" * 34])
@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "RepoNotFound"), (401, ""), (403, ""), (401, "GatedRepo"), (403, "GatedRepo")],
)
def test_a_refusal_advises_what_helps_on_that_hub(status, code, token):
    for endpoint, helps, not_so in [
        (PUBLIC, "hf auth login", "zoo hub token"),
        ("http://127.0.0.1:8000", "zoo hub token create --user NAME", "hf auth login"),
        ("https://hub.example.org", "zoo hub token create --user NAME", "hf auth login"),
    ]:
        hub = client.Connection(Place(endpoint), endpoint, token)
        with pytest.raises(client.RefusedError) as caught:
            hub.refuse(Refusal(status, code), "org/model", "main")
        assert helps in str(caught.value)
        assert not_so not in str(caught.value)
        assert ("accept its terms" in str(caught.value)) == (
            code == "GatedRepo" and endpoint == PUBLIC
        )
