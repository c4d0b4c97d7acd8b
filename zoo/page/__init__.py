"""The page that `zoo serve` shows."""


def serve(port: int | None = None, *, open_browser: bool = False) -> None:
    """Serve the demo page on this machine until interrupted."""
    from zoo.page.app import serve as serve_page

    serve_page(port, open_browser=open_browser)
