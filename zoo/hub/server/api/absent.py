"""What other hubs have and this one does not: each is answered by its name, never by a bare 404.

The status and the code are those from which the client makes an error of its own: `BadRequestError`
with the reason, or, for what is looked for and cannot be here, `RepositoryNotFoundError`,
`BucketNotFoundError`.
"""

from collections.abc import Callable

from starlette.responses import Response

from zoo.hub.server.call import Call, Handler, Routes
from zoo.hub.server.common import Refused, bad

routes = Routes()
_ALL = "GET POST PUT PATCH DELETE"

# Of one repository: what stands after its name -> what there is none of.
_OF_REPOSITORIES = {
    "discussions": "pull requests or discussions: commit to a branch, and talk elsewhere",
    "like": "likes",
    "likers": "likes",
    "leaderboard": "leaderboards",
    "scan": "scans of files: zoo pull checks what it fetches",
    "resource-group": "resource groups",
    "safetensors-metadata": "metadata of safetensors: read it by Range, as the client does",
}
_OF_SPACES = (
    "runtime", "hardware", "sleeptime", "pause", "restart", "secrets", "variables", "volumes",
    "dev-mode", "logs", "events", "replicas", "storage", "jwt", "metrics", "reload", "hot-reload",
)  # fmt: skip
# Of no repository.
_OTHERS = {
    "api/settings/webhooks": "webhooks: poll api/models/org/name/commits/main instead",
    "api/notifications": "notifications",
    "api/jobs": "jobs",
    "api/scheduled-jobs": "jobs",
    "api/daily_papers": "papers",
    "api/papers": "papers",
    "api/kernels": "kernels",
    "api/sandboxes": "sandboxes",
    "api/users/{user}/likes": "likes",
    "api/users/{user}/followers": "followers",
    "api/users/{user}/following": "followers",
    "api/organizations/{team}/followers": "followers",
    "api/spaces/semantic-search": "search by meaning: use search=",
    "api/spaces/templates": "templates of Spaces",
    "api/spaces/hardware": "hardware for Spaces: it keeps their files but runs nothing",
    "api/models-tags-by-type": "list of all tags: search with filter=",
    "api/datasets-tags-by-type": "list of all tags: search with filter=",
    "uploads": "uploads outside a repository",
}


def _none(what: str, of_repository: bool = False) -> Callable[[Call], Response]:
    def refuse(call: Call) -> Response:
        if of_repository:
            call.repo()  # whether there is such a repository is said first
        raise bad(f"this hub has no {what}")

    return refuse


def _add(patterns: list[str], handler: Handler) -> None:
    for pattern in patterns:
        routes.add(_ALL, pattern, f"{pattern}/*rest")(handler)


for _action, _what in _OF_REPOSITORIES.items():
    _paths = ["api/{kind}/{namespace}/{name}/", "api/{kind}/{name}/"]
    _add([f"{path}{_action}" for path in _paths], _none(_what, of_repository=True))
for _action in _OF_SPACES:
    _what = f"{_action} for Spaces: it keeps their files but runs nothing"
    _add([f"api/{{kind}}/{{namespace}}/{{name}}/{_action}"], _none(_what, of_repository=True))
for _path, _what in _OTHERS.items():
    _add([_path], _none(_what))


@routes.add(_ALL, "api/buckets", "api/buckets/*rest", "buckets/*rest")
def buckets(call: Call) -> Response:
    """Say that there are no buckets."""
    message = "this hub has no buckets: keep files in a repository of kind dataset"
    if call.request.method in ("GET", "HEAD", "DELETE"):
        raise Refused(404, message, "RepoNotFound")
    raise bad(message)
