"""Conversations with several answers, and a chat template that drops the reasoning of earlier answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DROPS_REASONING = """\
{%- set state = namespace(last=-1) -%}
{%- for message in messages if message.role == 'user' -%}
  {%- set state.last = messages.index(message) -%}
{%- endfor -%}
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\\n' -}}
  {%- if message.role == 'assistant' and loop.index0 > state.last -%}
    {{- '<think>\\n' + (message.reasoning_content or '') + '\\n</think>\\n\\n' -}}
  {%- endif -%}
  {{- message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""A template in the manner of Qwen3: only answers after the last question have reasoning, and it has no marks."""


def conversation(number: int, answers: int, **further: Any) -> dict[str, Any]:
    """A row with a conversation: questions and answers with reasoning, in turn."""
    messages: list[dict[str, Any]] = []
    for turn in range(answers):
        messages.append({"role": "user", "content": f"Add {number} and {turn}."})
        reasoning = f"{number} plus {turn}"
        messages.append({"role": "assistant", "content": str(number + turn), "reasoning_content": reasoning})
    return {"messages": messages, **further}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as JSON Lines, and return the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
