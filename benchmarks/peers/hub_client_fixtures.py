"""The fixtures that huggingface_hub's tests expect; its source distribution leaves them out.

`benchmarks/hub_client_suite.py` copies this file beside the tests as their `conftest.py`. It points
their constants at the hub named in the environment, before anything else reads them.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from _pytest.skipping import evaluate_skip_marks
from huggingface_hub import HfApi, RepoUrl, constants

from tests import testing_constants

# The address is in HF_ENDPOINT too; here come the names of the suite, among them its tokens.
for _name, _value in json.loads(os.environ["ZOO_CLIENT_SUITE"]).items():
    setattr(testing_constants, _name, _value)

RepoFactory = Callable[..., RepoUrl]
_FOLDERS = {
    "HF_HOME": "",
    "HF_HUB_CACHE": "hub",
    "HUGGINGFACE_HUB_CACHE": "hub",
    "HF_XET_CACHE": "xet",
    "HF_ASSETS_CACHE": "assets",
    "HF_TOKEN_PATH": "token",
    "HF_STORED_TOKENS_PATH": "stored_tokens",
}


@pytest.fixture(autouse=True)
def a_home_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give each test an empty cache and no login."""
    home = tmp_path_factory.mktemp("home")
    for name, folder in _FOLDERS.items():
        monkeypatch.setattr(constants, name, str(home / folder))


@pytest.fixture(autouse=True)
def quiet_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide who runs the tests: colours, width, agents, an earlier login."""
    from huggingface_hub.cli._output import out
    from huggingface_hub.inference._providers.hf_inference import _check_supported_task
    from huggingface_hub.utils import _auth, _detect_agent

    monkeypatch.setattr(_detect_agent, "_registry", _detect_agent._EMPTY_REGISTRY)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_EXPERIMENTAL_WARNING", True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(_auth, "_OAUTH_REFRESH_CACHE", None)
    monkeypatch.setattr(_auth, "_OAUTH_REFRESH_WARNED", False)
    out.set_mode()
    out.set_no_truncate(False)
    _check_supported_task.cache_clear()


@pytest.fixture(autouse=True)
def marks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Do what the marks of the suite ask for."""
    node = request.node
    if node.get_closest_marker("git_lfs") and os.environ.get("RUN_GIT_LFS_TESTS") != "1":
        pytest.skip("needs git-lfs")
    if node.get_closest_marker("no_xet"):
        pytest.skip("for an installation without hf_xet")
    if node.get_closest_marker("xet"):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
    if node.get_closest_marker("production"):
        monkeypatch.setattr(constants, "ENDPOINT", testing_constants.ENDPOINT_PRODUCTION)
        address = testing_constants.ENDPOINT_PRODUCTION_URL_SCHEME
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    names = [name for mark in node.iter_markers("deprecated") for name in mark.args]
    with ExitStack() as stack:
        for name in [] if evaluate_skip_marks(node) else names:
            stack.enter_context(pytest.warns(FutureWarning, match=f"'{name}'"))
        yield


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    """Where recorded answers lie; the distribution has none."""
    return {"ignore_localhost": True, "path_transformer": lambda path: path + ".yaml"}


@pytest.fixture(scope="session")
def api() -> HfApi:
    """A client of the hub."""
    return HfApi(endpoint=testing_constants.ENDPOINT_STAGING, token=testing_constants.TOKEN)


@pytest.fixture(scope="session")
def api_prod() -> HfApi:
    """A client of the public Hub."""
    return HfApi(endpoint=testing_constants.ENDPOINT_PRODUCTION)


@pytest.fixture
def repo_factory(api: HfApi) -> Iterator[RepoFactory]:
    """Make repositories that are removed in the end."""
    made: list[tuple[str, str]] = []

    def make(repo_type: str = "model", **options: Any) -> RepoUrl:
        if repo_type == "space":
            options.setdefault("space_sdk", "gradio")
        options.setdefault("repo_id", f"{repo_type}-{uuid.uuid4().hex}")
        url = api.create_repo(repo_type=repo_type, **options)
        made.append((url.repo_id, repo_type))
        return url

    yield make
    for repo_id, repo_type in made:
        with suppress(Exception):
            api.delete_repo(repo_id, repo_type=repo_type)


@pytest.fixture
def new_repo_id(api: HfApi) -> Iterator[str]:
    """A name that a test makes a repository of."""
    name = f"{testing_constants.USER}/new-{uuid.uuid4().hex}"
    yield name
    with suppress(Exception):
        api.delete_repo(name)


_asked = set()


@pytest.fixture(autouse=True)
def who_asks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Note which tests send something to the hub at all."""
    name = request.node.nodeid
    send = httpx2.Client.send

    def noted(self: httpx2.Client, request: httpx2.Request, **more: Any) -> httpx2.Response:
        if str(request.url).startswith(testing_constants.ENDPOINT_STAGING):
            _asked.add(name)
        return send(self, request, **more)

    monkeypatch.setattr(httpx2.Client, "send", noted)


def pytest_sessionfinish() -> None:
    """Leave the names of the tests that asked the hub."""
    Path(os.environ["ZOO_CLIENT_ASKED"]).write_text(json.dumps(sorted(_asked)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is out of scope; the list says why of each."""
    scope = json.loads(Path(os.environ["ZOO_CLIENT_SCOPE"]).read_text())
    kept, left = [], []
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        out = item.get_closest_marker("production") or any(name.startswith(at) for at in scope)
        (left if out else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)
