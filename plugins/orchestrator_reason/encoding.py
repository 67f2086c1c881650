"""Text to token ids and back, with the border between prompt and answer kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.kinds import Problem


def encode(tokenizer: Any, text: str) -> list[int]:
    """Encode a text without special tokens; ``tokenizer`` is a ``tokenizers.Tokenizer``."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Decode token ids; special tokens are left out."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def end_token_ids(config: Any) -> list[int]:
    """Return the end-of-sequence ids of a transformers config; raise ``ValueError`` where it names none."""
    value = getattr(config, "eos_token_id", None)
    if value is None:
        raise ValueError("eos_token_id is missing from the model's config.json; set it to the tokenizer's end token")
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]


def encode_pair(tokenizer: Any, problem: Problem, end_token_id: int) -> tuple[list[int], list[int]]:
    """Encode a problem's prompt, and its answer with the end token, as separate pieces."""
    return encode(tokenizer, problem.prompt), [*encode(tokenizer, problem.answer), end_token_id]


def require_clean_border(tokenizer: Any, problems: Sequence[Problem]) -> None:
    """Raise ``ValueError`` if a token would span prompt and answer, or if an answer does not survive encoding.

    Training joins the pieces, generation starts from the prompt alone; where the tokenizer would merge across the
    border the model would be asked to continue a text that it has never seen.
    """
    for problem in problems:
        prompt, answer = encode(tokenizer, problem.prompt), encode(tokenizer, problem.answer)
        if prompt + answer != encode(tokenizer, problem.prompt + problem.answer):
            raise ValueError(
                f"the tokenizer merges across the border of prompt {problem.prompt!r} and answer {problem.answer!r}; "
                "use a tokenizer that splits digits one by one, or end prompts with a character that it never merges"
            )
        if not prompt or decode(tokenizer, answer) != problem.answer:
            raise ValueError(
                f"the tokenizer does not give {problem.answer!r} back after encoding and decoding it "
                f"(it gives {decode(tokenizer, answer)!r}); its vocabulary must cover the task's characters"
            )
