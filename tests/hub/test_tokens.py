"""Tokens that are listed, and revoked while the hub serves."""

import json

import pytest

from zoo.cli import main
from zoo.errors import HubError
from zoo.hub import server


def test_a_token_is_listed_and_revoked_while_the_hub_serves(serve, wire, capsys):
    served = serve()
    folder = str(served.folder)
    kept, lost = served.token(), served.token("you")
    assert main(["hub", "token", "list", "--dir", folder]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["ID", "USER", "ROLE", "NAME", "MADE", "UNTIL"]
    assert len(shown.splitlines()) == 3
    assert kept not in shown
    assert main(["hub", "token", "list", "--dir", folder, "--user", "YOU", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["user"], row["role"], row["expires"]) == ("you", "write", None)
    assert wire(served.address, lost)("GET", "/api/whoami-v2").status == 200
    assert main(["hub", "token", "revoke", "--dir", folder, row["id"][:8]]) == 0
    assert capsys.readouterr().out == f"revoked {row['id']} of you\n"
    assert wire(served.address, lost)("GET", "/api/whoami-v2").status == 401
    assert wire(served.address, kept)("GET", "/api/whoami-v2").status == 200
    assert main(["hub", "token", "revoke", "--dir", folder, kept, "--json"]) == 0
    assert wire(served.address, kept)("GET", "/api/whoami-v2").status == 401


@pytest.mark.parametrize("which", ["", "zz", "hf_unknown", "%", "_", "' OR 1=1"])
def test_a_token_that_is_not_there_is_not_revoked(tmp_path, which):
    server.token(tmp_path, "me")
    with pytest.raises(HubError, match="zoo hub token list"):
        server.revoke(tmp_path, which)
    assert len(server.tokens(tmp_path)) == 1


def test_an_id_that_means_two_tokens_revokes_none(tmp_path):
    for _ in range(40):  # of sixteen first digits
        server.token(tmp_path, "me")
    first = server.tokens(tmp_path)[0].id[0]
    many = [made for made in server.tokens(tmp_path) if made.id[0] == first]
    if len(many) > 1:
        with pytest.raises(HubError, match=f"{len(many)} tokens"):
            server.revoke(tmp_path, first)
    assert len(server.tokens(tmp_path)) == 40
