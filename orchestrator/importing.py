"""``artifact.import``: bring a foreign file or folder into the store as a typed artifact, by content."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orchestrator_storage as storage
from orchestrator.context import Context
from orchestrator.errors import RecipeError, StageError, unknown
from orchestrator.fingerprint import fingerprint
from orchestrator.stage import Inspection, stage

#: Files that lie in checkpoints but are not part of them.
IGNORED = (".git", ".gitattributes", ".cache", "__pycache__", ".DS_Store")
# What quant_methods begin with that name a model_loader of this project.
_OURS = "orchestrator-"
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".text")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What to bring in; the content decides the key, neither the path nor the mode does.

    type    artifact type of the result, by name: Model, Table, ...
    path    a file or a folder; what a folder holds of .git, .cache, __pycache__ and the like is left out
    mode    copy; link: hard-link, or copy to another file system; reference: leave the files where they are and check
            their digest on every use; a Table made of Parquet or text files is written anew in every mode
    format  of a Model: the model_loader that reads it; empty: the quant_method of its config.json (of `orchestrator-sparse`
            sparse, and so on), gptq with a quantize_config.json, dense where there is neither; of no use to other types
    """

    type: str
    path: str = field(metadata={"identity": False})
    mode: Literal["copy", "link", "reference"] = field(default="copy", metadata={"identity": False})
    format: str = ""


def inspect_source(config: ImportConfig) -> Inspection:
    """Fingerprint the source and name the output's type."""
    from orchestrator.plugins import installed

    types = installed().types
    if config.type not in types:
        raise unknown("artifact type", config.type, types, "artifact.import")
    source = Path(config.path).expanduser()
    if not source.exists():
        raise RecipeError(f"artifact.import: the path {config.path!r} does not exist")
    files = list(_files(source))
    if not files:
        raise RecipeError(f"artifact.import: {config.path!r} holds no files")
    return Inspection(fingerprint(files, source if source.is_dir() else source.parent), {"result": types[config.type]})


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and not any(part in IGNORED for part in path.relative_to(source).parts):
            yield path


@stage("artifact.import", version="2", inspect=inspect_source)
def import_artifact(ctx: Context, config: ImportConfig) -> storage.Artifact:
    """Import a Hugging Face checkpoint, Parquet or text: ``{type: Model, path: ./my-llama, mode: copy|link|reference}``.

    ``copy`` copies the files; ``link`` hard-links them where the file system allows it (and copies otherwise); ``reference``
    leaves them where they are: path and digest are recorded, checked on every use, and nothing is ever collected. A Parquet file becomes a
    Table; a text file or a folder of them becomes a Table with the columns ``path`` and ``text``.
    """
    from orchestrator.plugins import installed

    type_ = installed().types[config.type]
    source = Path(config.path).expanduser().resolve()
    artifact = ctx.new(type_, **_meta(type_, config, source))
    if issubclass(type_, storage.Table) and not (source / "table.parquet").is_file():
        _import_table(artifact, source)
        return artifact
    files = list(_files(source))
    for done, path in enumerate(files):
        ctx.check_cancelled()
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        if config.mode == "reference":
            artifact.sources[name] = path
        else:
            _place(path, artifact.path / name, config.mode)
        ctx.progress(done + 1, len(files), "file")
    return artifact


def _meta(type_: type[storage.Artifact], config: ImportConfig, source: Path) -> dict[str, str]:
    """Return a Model's format: as configured, or as its config.json says."""
    if not issubclass(type_, storage.Model):
        return {}
    if config.format:
        return {"format": config.format}
    return {"format": declared_format(source)}


def declared_format(source: Path) -> str:
    """Return the model_loader that a checkpoint directory asks for in its config.json; StageError where there is none."""
    import json

    try:
        settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{str(source)!r} is not a checkpoint directory: config.json: {error}") from error
    label = settings.get("quantization_config") if isinstance(settings, dict) else 0
    if label is not None and not isinstance(label, dict):
        raise StageError(f"{str(source)!r}: config.json or its quantization_config is no JSON object; set format")
    if label and label.get("quant_method"):
        return str(label["quant_method"]).removeprefix(_OURS)
    # GPTQ's label without its name, and on its own in files that were written before config.json had one.
    gptq = "bits" in label if label else (source / "quantize_config.json").is_file()
    return "gptq" if gptq else "dense"


def _import_table(artifact: storage.Artifact, source: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = list(_files(source))
    if all(path.suffix == ".parquet" for path in files):
        tables = [pq.read_table(path) for path in files]
        storage.Table.write(artifact.path, pa.concat_tables(tables, promote_options="default"))
    elif all(path.suffix in TEXT_SUFFIXES for path in files):
        names = [path.relative_to(source).as_posix() if source.is_dir() else path.name for path in files]
        storage.Table.write(
            artifact.path, pa.table({"path": names, "text": [path.read_text(encoding="utf-8") for path in files]})
        )
    else:
        raise StageError(
            f"{str(source)!r} cannot become a Table",
            f"a Table is made of .parquet files or of {', '.join(TEXT_SUFFIXES)} files",
        )


def _place(path: Path, target: Path, mode: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "link":
        try:
            target.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, target)  # another file system: the content counts
        return
    shutil.copyfile(path, target)
