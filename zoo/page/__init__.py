"""The page that `zoo serve` shows."""

from collections.abc import Sequence
from pathlib import Path


def serve(
    port: int | None = None,
    *,
    models: Sequence[str | Path] = (),
    open_browser: bool = False,
    mcp: bool = False,
) -> None:
    """Serve the demo page on this machine until interrupted (Ctrl+C).

    Args:
        port: None takes GRADIO_SERVER_PORT, or else the first free one from 7860 on.
        models: refs of checkpoints that the tabs Listen and Look show first, e.g. "./runs/person".
        open_browser: open the page in the browser.
        mcp: also let language models call what it shows, as tools of the Model Context Protocol.

    Raises:
        MissingExtraError: the extra `[serve]` is not installed, or `[mcp]` with `mcp`.
        MissingWeightsError: no super-resolution network has weights.
        MismatchError: no tab shows one of the models.
        ZooError: the port is in use, or none is free.

    ```python
    import zoo

    zoo.serve(7861, open_browser=True)
    ```

    """
    from zoo.artifacts.resolution import resolve
    from zoo.page.app import serve as serve_page

    given = [resolve(ref) for ref in models]
    serve_page(port, models=given, open_browser=open_browser, mcp=mcp)
