"""The page that `zoo serve` shows."""


def serve(port: int | None = None, *, open_browser: bool = False) -> None:
    """Serve the demo page on this machine until interrupted (Ctrl+C).

    Args:
        port: None takes GRADIO_SERVER_PORT, or else the first free one from 7860 on.
        open_browser: open the page in the browser.

    Raises:
        MissingExtraError: the extra `[serve]` is not installed.
        MissingWeightsError: no super-resolution network has weights.
        ZooError: the port is in use, or none is free.

    ```python
    import zoo

    zoo.serve(7861, open_browser=True)
    ```

    """
    from zoo.page.app import serve as serve_page

    serve_page(port, open_browser=open_browser)
