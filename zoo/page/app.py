"""The frame of the demo page: its look, its tabs, and how it is served.

Nothing leaves the machine: Gradio's analytics and the Hub client are switched off before they are
imported, the theme's fonts are Gradio's own, and no folder is open to visitors. The tabs are found
through the extension point "zoo.page.tabs".
"""

import atexit
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import extensions
from zoo.errors import MismatchError, MissingExtraError, ZooError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these are read once, at import
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    import gradio as gr
except ImportError as error:
    raise MissingExtraError.of("gradio", "serve") from error

from zoo.page import trimming
from zoo.page.parts import note
from zoo.page.tabs.contract import Context, Tab, missing

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

POINT = "zoo.page.tabs"
PARTS = {"TITLE": str, "ORDER": int, "REQUIRES": Mapping, "CSS": str, "build": Callable}
PORTS = range(7860, 7960)
MAX_FILE_SIZE = "50mb"
_FORGET = (600, 3600)  # seconds: every ten minutes, files older than an hour go
_THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    # Gradio's semi-bold files lack most Latin letters; its bold ones are whole.
    font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
)
_HEADER = """
<header class="zoo-header"><small>edge-zoo, a model zoo for efficient edge AI</small>
<h1>Small networks that change in an instant</h1>
<p>Restyle a photograph while a slider moves, or enlarge it, by networks of a few ten thousand
weights, small enough for a microcontroller. {privacy}</p></header>"""
_PRIVACY = {
    True: "Nothing leaves this machine.",
    False: "Only you see your picture, and it is deleted after you leave.",
}
# Gradio's buttons that are pictures have no words: examples are called by their files, others by
# what stands on their block.
_NAMES = """<script>
new MutationObserver(() => {
  for (const picture of document.querySelectorAll('button:not([aria-label]) img[src]')) {
    const button = picture.closest('button'), block = picture.closest('.block');
    if (button.innerText.trim()) continue;
    const file = decodeURI(picture.src).split('/').pop().replace(/\\.[a-z]+$/, '');
    const label = block?.querySelector('[data-testid=block-label]')?.innerText.trim();
    button.setAttribute('aria-label', button.matches('.gallery-item') ? `Example: ${file}`
      : label || 'Picture');
  }
}).observe(document, {childList: true, subtree: true, attributes: true, attributeFilter: ['src']});
</script>"""
_CSS = """
.gradio-container { max-width: 1240px !important; width: 100%; margin: 0 auto !important; }
.gradio-container main { width: 100%; }
.secondary-wrap input { text-overflow: ellipsis; margin-right: 1.4rem !important; }
footer .divider { display: none !important; }
.html-container { padding: 0 !important; }
/* Tabs beyond the window go into a menu instead of widening the page. */
.tab-wrapper { width: 0; min-width: 100%; }
@media (max-width: 480px) { .tab-container button { padding: 0 .45rem !important; } }
.zoo-header h1 { font-size: 1.5rem; font-weight: 600; margin: 0; letter-spacing: -.01em; }
.zoo-header small { color: var(--color-accent); }
.zoo-header p { color: var(--body-text-color-subdued); margin: .15rem 0 0; }
.zoo-caption { font-size: 13px; color: var(--body-text-color-subdued); }
.zoo-caption b { color: var(--body-text-color); }
.zoo-facts { display: grid; grid-template-columns: repeat(4, 1fr); gap: 10px; margin: 0; }
.zoo-facts > div { padding: 10px 14px; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: var(--block-background-fill); }
.zoo-facts > div:first-child { border-color: var(--color-accent); }
.zoo-facts dt { font-size: 12px; color: var(--body-text-color-subdued); }
.zoo-facts dd { margin: 0; }
.zoo-facts b { display: block; white-space: nowrap; font-size: 1.35rem; font-weight: 600;
  line-height: 1.4; }
.zoo-facts span { display: block; font-size: 12px; line-height: 1.35;
  color: var(--body-text-color-subdued); }
/* The divider of two pictures is seen on light and dark ones. */
.outer > .inner { box-shadow: 0 0 0 1px rgb(15 23 42 / 55%); }
.zoo-scroll { overflow-x: auto; width: 0; min-width: 100%; }
.zoo-note, .zoo-note dd { color: var(--body-text-color-subdued); font-size: 12px; }
.zoo-note dt { font-weight: 600; margin-top: 6px; }
.zoo-note dd { margin: 0; }
.zoo-progress progress { width: 100%; accent-color: var(--color-accent); }
.zoo-stack { gap: 6px !important; }
.zoo-table { width: 100%; border-collapse: collapse; font-size: 13px;
  font-variant-numeric: tabular-nums; }
.zoo-table, .zoo-table :is(thead, tbody, tr, th, td) { border: 0 !important; }
.zoo-table caption { text-align: left; font-weight: 600; padding: 2px 0 6px; }
.zoo-table :is(th, td) { padding: 5px 10px 5px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.zoo-table thead th { color: var(--body-text-color-subdued); font-weight: 500; }
.zoo-table tbody th { font-weight: 600; }
.zoo-table .zoo-over td:last-child { color: #d1495b; font-weight: 700; }
.zoo-card { max-width: calc(100vw - 64px); overflow-x: auto; }
.zoo-card table { display: block; overflow-x: auto; white-space: nowrap; }
.zoo-card :is(td, th) { word-break: normal !important; overflow-wrap: normal !important; }
.zoo-table button { color: var(--color-accent); text-decoration: underline; text-align: left;
  font: inherit; padding: 0; background: none; border: 0; cursor: pointer; }
@media (max-width: 640px) {
  .zoo-table, .zoo-table :is(caption, tbody, tr, th, td) { display: block; width: 100%; }
  .zoo-table thead { display: none; }
  .zoo-table tr { padding: 6px 0; border-bottom: 1px solid var(--border-color-primary) !important; }
  .zoo-table :is(th, td) { border: 0 !important; padding: 2px 0; overflow-wrap: anywhere; }
  .zoo-table td::before { content: attr(data-label) ": "; color: var(--body-text-color-subdued); }
}
@media (max-width: 900px) { .zoo-facts { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 640px) { .zoo-facts b { font-size: 1.15rem; }
  .zoo-facts > div { padding: 8px 10px; } }
"""


def tabs() -> dict[str, Tab]:
    """Return the tabs, ours and those of installed packages, by name, in their order.

    Raises:
        MismatchError: another package's tab cannot be imported, or is not one.

    """
    loaded: dict[str, Tab] = {
        name: extensions.member(POINT, name, "tab") for name in extensions.names(POINT)
    }
    for name, tab in loaded.items():
        extensions.require(tab, PARTS, f"tab {name!r}", f"{POINT}.contract")
    return dict(sorted(loaded.items(), key=lambda pair: (pair[1].ORDER, pair[0])))


def build(*, local: bool = True, models: "Sequence[Artifact]" = ()) -> gr.Blocks:
    """Return the page.

    Args:
        local: whether only this machine can see it.
        models: checkpoints that its tabs show besides those that ship.

    Raises:
        MissingWeightsError: no network has weights.
        MismatchError: a tab cannot be built, or no tab shows one of the models.

    """
    _check_shown(models)
    root = Path(tempfile.mkdtemp(prefix="zoo-page-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    with gr.Blocks(title="edge-zoo", analytics_enabled=False, delete_cache=_FORGET) as page:
        gr.HTML(_HEADER.format(privacy=_PRIVACY[local]))
        with gr.Tabs():
            for name, tab in tabs().items():
                with gr.Tab(tab.TITLE, id=name) as place:
                    _fill(tab, Context(root / name, tuple(models), place.select))
    page.queue(max_size=128)  # everybody who moves a slider has one request in it
    return page


def _check_shown(models: "Sequence[Artifact]") -> None:
    """Refuse a model that no tab shows."""
    shown = {task: tab.TITLE for tab in tabs().values() for task in getattr(tab, "TASKS", ())}
    for artifact in models:
        task = None if artifact.recipe is None else artifact.recipe.subtask
        if task not in shown:
            have = ", ".join(f"{task} ({title})" for task, title in shown.items())
            raise MismatchError(
                f"no tab shows {artifact.ref}, whose task is {task or 'not known'}; tabs show "
                f"checkpoints of {have}"
            )


def _fill(tab: Tab, context: Context) -> None:
    """Build a tab, or say what it lacks here."""
    if sentence := missing(tab.REQUIRES):
        note(sentence)
        return
    context.folder.mkdir()
    try:
        tab.build(context)
    except ZooError:
        raise
    except Exception as error:  # whatever another package's code raises
        raise MismatchError(
            f"tab {context.folder.name!r} cannot be built: {type(error).__name__}: {error}; repair "
            "or uninstall the package that brings it"
        ) from error


def serve(
    port: int | None = None,
    host: str | None = None,
    *,
    models: "Sequence[Artifact]" = (),
    open_browser: bool = False,
    mcp: bool = False,
    block: bool = True,
) -> str:
    """Serve the page; return its address once it is served (or, with `block`, once it has ended).

    Args:
        port: None takes GRADIO_SERVER_PORT, or else the first free one from 7860 on, as 0 does.
        host: None takes GRADIO_SERVER_NAME (which a Space sets), or else this machine only.
        models: checkpoints that its tabs show besides those that ship.
        open_browser: open the page in the browser.
        mcp: also offer what visitors may call as tools of the Model Context Protocol.
        block: wait until interrupted.

    Raises:
        ZooError: the port is in use, or none is free.
        MissingWeightsError: no network has weights.
        MissingExtraError: the extra `[mcp]`, without which Gradio serves none, is not installed.

    """
    if mcp and missing({"mcp": "mcp"}):
        raise MissingExtraError.of("mcp", "mcp")
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    if port is None and os.environ.get("GRADIO_SERVER_PORT", "").isdigit():
        port = int(os.environ["GRADIO_SERVER_PORT"])
    port = _free_port(port, host)
    page = build(local=host in ("127.0.0.1", "localhost", "::1"), models=models)
    address = _launched(page, port, host, open_browser=open_browser, mcp=mcp)
    tools = f", its tools at {address}gradio_api/mcp/" if mcp else ""
    print(f"The page is at {address}{tools} (Ctrl+C ends it)", flush=True)
    trimming.start()
    if block:
        page.block_thread()
    return address


def _launched(page: gr.Blocks, port: int, host: str, *, open_browser: bool, mcp: bool) -> str:
    """Serve a page; return its address."""
    try:
        with warnings.catch_warnings():
            # What a tab keeps for a visitor, a tool does without.
            warnings.filterwarnings("ignore", ".*MCP server.*gr.State", UserWarning)
            _, address, _ = page.launch(
                server_name=host, server_port=port, inbrowser=open_browser, share=False,
                prevent_thread_lock=True, quiet=True, ssr_mode=False, run_history=False, pwa=False,
                max_file_size=MAX_FILE_SIZE, allowed_paths=[], footer_links=["api"],
                mcp_server=mcp, theme=_THEME, head=_NAMES,
                css=_CSS + "".join(tab.CSS for tab in tabs().values()),
                # Where its own page takes over 3 s to come, on a busy machine, Gradio gives up.
                _frontend=False,
            )  # fmt: skip
    except OSError as error:  # somebody has taken the port since it was tried
        raise ZooError(f"{host}:{port} cannot be served: {error}; type: zoo serve") from error
    if mcp and not page.mcp_server:
        page.close(verbose=False)
        raise ZooError(f"there are no tools: {page.mcp_error}; type: zoo serve, without --mcp")
    return str(address)


def _free_port(port: int | None, host: str) -> int:
    """Return `port` if it can be listened on, or the first free one of `PORTS` for None and 0.

    Gradio looks for what it serves at the very port that it is given: 0 would not be there.
    """
    port = port or None
    if port is not None and _is_free(port, host):
        return port
    free = next((number for number in PORTS if _is_free(number, host)), None)
    if port is not None:
        raise ZooError(
            f"port {port} of {host} is in use or not allowed; type: zoo serve --port {free or 'N'}"
        )
    if free is None:
        raise ZooError(f"ports {PORTS[0]} to {PORTS[-1]} are all in use; type: zoo serve --port N")
    return free


def _is_free(port: int, host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        if os.name == "posix":  # as servers do: a port that was just closed is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
