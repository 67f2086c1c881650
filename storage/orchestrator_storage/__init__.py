"""Content-addressed store of typed artifacts; importing it loads no pyarrow, numpy, safetensors or torch."""

from orchestrator_storage.artifact import Artifact
from orchestrator_storage.canonical import artifact_digest, canonical_json
from orchestrator_storage.checkpoint import Model
from orchestrator_storage.collect import GcReport
from orchestrator_storage.errors import ArtifactError, StoreError
from orchestrator_storage.facts import BASES, FACT_FIELDS, check_fact, facts_digest, facts_table
from orchestrator_storage.hashing import StatCache, hash_file
from orchestrator_storage.lease import Holder, Lease
from orchestrator_storage.manifest import FileEntry, Manifest, Output
from orchestrator_storage.schemas import TRAFFIC_GROUPS, TRAFFIC_OPS, Column, TableSchema
from orchestrator_storage.store import BUILTIN_TYPES, Store
from orchestrator_storage.tables import Table, Thoughts, Traffic
from orchestrator_storage.tensors import Tensors, Tokens, TokenSplit

__all__ = [
    "BASES",
    "BUILTIN_TYPES",
    "FACT_FIELDS",
    "TRAFFIC_GROUPS",
    "TRAFFIC_OPS",
    "Artifact",
    "ArtifactError",
    "Column",
    "FileEntry",
    "GcReport",
    "Holder",
    "Lease",
    "Manifest",
    "Model",
    "Output",
    "StatCache",
    "Store",
    "StoreError",
    "Table",
    "TableSchema",
    "Tensors",
    "Thoughts",
    "TokenSplit",
    "Tokens",
    "Traffic",
    "artifact_digest",
    "canonical_json",
    "check_fact",
    "facts_digest",
    "facts_table",
    "hash_file",
]
