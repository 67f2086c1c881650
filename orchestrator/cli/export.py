"""``orchestrate export``: an artifact out of the store, as an ordinary writable directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from orchestrator.cli._output import json_option, print_json, size
from orchestrator.cli._runs import find_artifact
from orchestrator.errors import RecipeError, StoreError
from orchestrator.home import Home


@click.command(short_help="Copy an artifact out of the store.")
@click.argument("artifact")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
def command(artifact: str, folder: Path, as_json: bool) -> None:
    """Copy ARTIFACT into DIR, which must be new or empty.

    ARTIFACT is the beginning of a digest, or a stage of the latest run: STAGE, STAGE.output or STAGE.output/axis:value.

    \b
    Examples:
      orchestrate export gptq4 ./my-model
      orchestrate export small.layers/bits:4 ./layers
      orchestrate export 3f9ac01b22d4 ./model
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    from orchestrator.plugins import installed
    from orchestrator_storage import Store

    home = Home.locate(create=False)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"{str(folder)!r} exists and is not an empty folder", "name a new folder")
    name, output, made = find_artifact(home, artifact)
    source = Store(home.store, installed().types).open(output).path
    try:
        # Plain copies with the writer's own permissions: views are read-only hard links into the store.
        shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for path in [folder, *(one for one in folder.rglob("*") if one.is_dir())]:
            path.chmod(0o755)
    except (OSError, shutil.Error) as error:
        raise StoreError(
            f"{output.digest[:12]} could not be copied to {str(folder)!r}: {error}",
            "is the disk full, or the folder not writable?",
        ) from error
    total = sum(file.size for file in output.files)
    if as_json:
        print_json(
            {
                "type": output.type,
                "digest": output.digest,
                "output": name,
                "stage": made.stage,
                "path": str(folder.absolute()),
                "bytes": total,
            }
        )
    else:
        click.echo(f"{output.type} {output.digest[:12]} ({size(total)}, {len(output.files)} files) copied to {folder}")
