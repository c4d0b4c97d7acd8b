"""The commands about this machine: serve, cache, env."""

import os

from zoo.cli.completion import script
from zoo.cli.printing import Arguments, Command, print_json, print_table
from zoo.page import serve
from zoo.version import __version__


def add(command: Command) -> None:
    """Add the commands to the command line."""
    sub = command("serve", _serve, "serve the demo page on this machine")
    sub.add_argument(
        "refs", nargs="*", metavar="REF",
        help="checkpoints that its tabs show too, e.g. ./runs/person",
    )  # fmt: skip
    sub.add_argument("--port", type=int, help="default: 7860, or the next free one")
    sub.add_argument("--open", action="store_true", help="open it in the browser")
    sub.add_argument(
        "--mcp", action="store_true", help="also offer it to language models, as tools (MCP)"
    )
    sub = command("cache", _cache, "list or prune what was prepared and kept")
    sub.add_argument("action", choices=["list", "prune"])
    sub.add_argument(
        "--unused-days", type=float, default=0.0, help="prune only what has been unused for longer"
    )
    sub = command("completion", _completion, "print what makes a shell complete zoo's words")
    sub.add_argument("shell", choices=["bash", "zsh", "fish"])
    command("env", _env, "show versions and settings, for a bug report")


def _serve(args: Arguments) -> None:
    """Serve the demo page."""
    serve(args.port, models=args.refs, open_browser=args.open, mcp=args.mcp)


def _cache(args: Arguments) -> None:
    """List or prune what was prepared and kept."""
    from zoo import cache

    entries = cache.entries() if args.action == "list" else cache.prune(args.unused_days)
    if args.json:
        print_json([{**vars(entry), "path": str(entry.path)} for entry in entries])
        return
    for entry in entries:
        print(
            f"{entry.kind}  {entry.size_bytes / 1e6:.1f} MB  "
            f"unused for {entry.unused_days:.1f} days  {entry.path}"
        )
    total = sum(entry.size_bytes for entry in entries) / 1e6
    what = "in" if args.action == "list" else "removed from"
    print(f"{total:.1f} MB {what} {cache.root()}")


def _completion(args: Arguments) -> None:
    """Print a shell's completion script."""
    print(script(args.shell))


def _env(args: Arguments) -> None:
    """Show versions and settings."""
    import importlib.metadata
    import platform

    from zoo import cache
    from zoo.hub.where import place

    packages = "torch safetensors numpy pillow opencv-python-headless huggingface-hub accelerate "
    packages += "datasets tensorboard onnx onnxruntime ai-edge-litert tflite-micro ethos-u-vela "
    packages += "gradio transformers peft diffusers gguf lm-eval"
    versions = {}
    for name in packages.split():
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    facts = {
        "zoo": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "cache": str(cache.root()),
        "hub": place().endpoint or "local",
        **versions,
    }
    if args.json:
        print_json(facts)
    else:
        print_table([(key, str(value)) for key, value in facts.items()])
