"""The list of what is out of scope of the client's own suite has a form, and reasons."""

import tomllib
from pathlib import Path


def test_every_test_that_is_out_of_scope_has_a_reason():
    table = tomllib.loads(Path(__file__).with_name("client_suite.toml").read_text())
    assert set(table) == {"out"}
    seen = set()
    for entry in table["out"]:
        assert set(entry) == {"reason", "tests"}
        assert 20 < len(entry["reason"]) < 100
        for name in entry["tests"]:
            assert name.startswith("test_")
            assert ".py" in name
            assert name not in seen
            seen.add(name)
    # One that covers another would hide why that one is out.
    assert not [(a, b) for a in seen for b in seen if a != b and b.startswith(f"{a}::")]
