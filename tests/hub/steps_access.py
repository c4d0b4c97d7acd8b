"""Steps of `client_steps`: who may do what, and how a refusal reaches the caller."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError


@contextmanager
def raises(
    kind: type[Exception], status: int | None = None, but: type[Exception] | None = None
) -> Iterator[None]:
    caught: Exception | None = None
    try:
        yield
    except kind as error:
        caught = error
    assert caught is not None, f"no {kind.__name__}"
    assert but is None or not isinstance(caught, but), caught
    found = getattr(getattr(caught, "response", None), "status_code", None)
    assert status in (None, found), f"status {found}, not {status}: {caught}"


def private_anonymous(s: SimpleNamespace) -> None:
    with raises(RepositoryNotFoundError, 401):
        s.api.model_info("me/secret", token=False)
    assert "me/secret" not in [item.id for item in s.api.list_models(token=False)]


def private_other(s: SimpleNamespace) -> None:
    with raises(RepositoryNotFoundError, 404):
        s.api.model_info("me/secret", token=s.other)
    with raises(RepositoryNotFoundError, 404):
        s.api.hf_hub_download("me/secret", ".gitattributes", token=s.other)


def invalid_token(s: SimpleNamespace) -> None:
    with raises(HfHubHTTPError, 401):
        s.api.whoami(token="hf_wrong")


def invalid_token_public(s: SimpleNamespace) -> None:
    with raises(HfHubHTTPError, 401, but=RepositoryNotFoundError):
        s.api.model_info("me/model", token="hf_wrong")


def read_token(s: SimpleNamespace) -> None:
    assert s.api.model_info("me/secret", token=s.reader).private
    with raises(HfHubHTTPError, 403):
        s.api.upload_file(
            path_or_fileobj=b"x", path_in_repo="x", repo_id="me/model", token=s.reader
        )


def gated(s: SimpleNamespace) -> None:
    s.api.update_repo_settings("me/other", gated="manual")
    assert s.api.model_info("me/other", token=s.other).gated == "manual"
    with raises(GatedRepoError, 403):
        s.api.hf_hub_download("me/other", ".gitattributes", token=s.other)
    with raises(GatedRepoError, 401):
        s.api.hf_hub_download("me/other", ".gitattributes", token=False)
    s.api.grant_access("me/other", "other")
    assert s.api.hf_hub_download("me/other", ".gitattributes", token=s.other)


def auth_check(s: SimpleNamespace) -> None:
    s.api.auth_check("me/secret")
    with raises(RepositoryNotFoundError):
        s.api.auth_check("me/secret", token=s.other)
