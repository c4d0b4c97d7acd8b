"""The verbs of patches: a base and its adapters as one int8 file and patches of its integers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.adapters import registry
from zoo.adapters.folder import FILE
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.resolution import Ref, checkpoint
from zoo.errors import MismatchError, UnknownNameError
from zoo.files import probe, write_bytes
from zoo.verbs.exporting import calibration_inputs, data_path

if TYPE_CHECKING:
    from zoo.adapters.format import SparseAdapter
    from zoo.deploy.family import PatchFile
    from zoo.deploy.tflite import TfliteFile


def export_patches(
    ref: Ref,
    out: Ref,
    *,
    data: Ref,
    adapters: str,
    mixes: Sequence[Mapping[str, float]] = (),
    npu: bool = False,
    input_shape: tuple[int, ...] | None = None,
) -> "tuple[TfliteFile, list[PatchFile]]":
    """Write a base as an int8 `.tflite` file, and each adapter as a patch of it beside it.

    One set of scales serves all, so that a patch is positions and integers; see
    `zoo.deploy.family`. Patches are named after adapters: looks-pencil.patch.

    Args:
        ref: of the base's checkpoint.
        out: of the `.tflite` file.
        data: folder of inputs that the ranges are learned from.
        adapters: a pattern of names ("looks-*"), or a path: an adapter's folder or file, or a
            folder of such folders, e.g. the one that `zoo adapter joint` writes.
        mixes: strengths by adapter, each written as a patch too.
        npu: use operators that Ethos-U accelerators have.
        input_shape: of one inference; None takes the recipe's.

    Raises:
        MismatchError: an adapter is for another base, or integers would compute something else.

    """
    from zoo.deploy.family import Family, PatchFile
    from zoo.deploy.patch import SUFFIX
    from zoo.deploy.tflite import TfliteFile

    source, path = checkpoint(ref), Path(out)
    if source.recipe.of_transformers or source.quantization is not None:
        raise MismatchError(
            f"{ref} is not a network in float, from which scales for all are chosen"
        )
    chosen = _chosen(adapters)
    if unknown := sorted({name for mix in mixes for name in mix} - set(chosen)):
        raise UnknownNameError.near(
            "adapter", unknown[0], chosen, f"of {adapters}: {_some(chosen)}"
        )
    probe(path.parent)
    if path.is_dir():
        raise MismatchError(f"cannot write {path}: it is a folder; expected a .tflite file")
    shape = input_shape or source.recipe.input_shape
    inputs = calibration_inputs(source, data_path(data))
    family = Family(source.load(), chosen, inputs, shape, npu=npu)
    states = [*({name: 1.0} for name in chosen), *mixes]
    base, *others = [family.fidelity(strengths) for strengths in [{}, *states]]
    patches = [family.patch(strengths) for strengths in states]
    write_bytes(path, family.content)
    files = []
    for patch, fidelity in zip(patches, others, strict=True):
        place = patch.save(path.parent / f"{patch.label}{SUFFIX}")
        files.append(
            PatchFile(
                path=place,
                count=patch.count,
                written_bytes=patch.written_bytes,
                file_bytes=place.stat().st_size,
                snr_db=fidelity.snr_db,
            )
        )
    written = TfliteFile(path=path, max_abs_error=base.max_abs_error, snr_db=base.snr_db)
    return written, files


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:8])


def _chosen(adapters: str) -> "dict[str, SparseAdapter]":
    """Return the adapters of a pattern of names or of a path, by name."""
    if adapters[:1] not in "./~":
        if not (names := registry.names(adapters)):
            known = registry.names()
            raise UnknownNameError.near("adapter", adapters, known, "type: zoo adapter list")
        return {name: adapter_refs.adapter(name) for name in names}
    from zoo.adapters.format import SparseAdapter

    path = Path(adapters).expanduser()
    inner = sorted(folder.parent for folder in path.glob(f"*/{FILE}"))
    places = inner or [path]
    return {place.stem if place.is_file() else place.name: SparseAdapter.load(place)
            for place in places}  # fmt: skip


def patch_file(base: Ref, patch: Ref, out: Ref | None = None) -> dict[str, Any]:
    """Put a patch into the bytes of a `.tflite` file; return what that writes.

    Args:
        base: the file that the patch was written with; it stays as it is.
        patch: of `export_patches`.
        out: where the result is written; None only checks.

    Raises:
        MismatchError: the patch is for another file, or `out` is one of the two that are read.
        UnsafeFileError: it is damaged.

    """
    from zoo.deploy.patch import Patch, PatchedFile

    file, change = PatchedFile.read(base), Patch.load(patch)
    for name, kept in (("base", base), ("patch", patch)):
        if out is not None and Path(out).resolve() == Path(kept).resolve():
            raise MismatchError(
                f"--out {out} is the {name} itself, which would be lost; give another file"
            )
    written = file.apply(change)
    if out is not None:
        write_bytes(Path(out), bytes(file.content))
    return {
        "label": change.label,
        "strengths": dict(change.strengths),
        "integers": change.count,
        "written_bytes": written,
        "patch_bytes": Path(patch).stat().st_size,
        "file_bytes": len(file.content),
    }
