"""Pools of many kinds: what real data holds, and what trainers skip or change."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def user(content: str) -> Row:
    return {"role": "user", "content": content}


def answer(content: str | None, **further: Any) -> Row:
    return {"role": "assistant", "content": content, **further}


def system(content: str) -> Row:
    return {"role": "system", "content": content}


def chat(*messages: Row) -> Row:
    return {"messages": list(messages)}


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "day": {"type": "string"}}},
    },
}


def call(**arguments: Any) -> Row:
    return {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


PAIRS = [
    chat(user("How many legs has a spider?"), answer("Eight.")),
    chat(user("Name a river in Peru."), answer("The Marañón, and also the Ucayali 🌊.")),
    chat(user("Say nothing but a digit."), answer("7")),
    chat(user("Write two lines."), answer("one\ntwo\n")),
    chat(user("  What is 2 + 2?  "), answer(" four ")),
]
DIALOGUES = [
    chat(
        system("You answer in one word."),
        user("Colour of grass?"),
        answer("Green."),
        user("Of snow?"),
        answer("White."),
    ),
    chat(user("Ping"), answer("pong"), user("Ping again"), answer("pong again"), user("Once more"), answer("pong")),
    chat(system("Be kind."), user("I lost my key."), answer("Oh no. Let us look for it.")),
]
ODD = [
    *DIALOGUES,
    chat(user("first"), user("second"), answer("both")),
    chat(answer("Hello, I begin."), user("Then go on."), answer("I do.")),
    chat(user("Begin."), answer("Yes."), system("From now on, shout."), user("Hello?"), answer("HELLO!")),
    chat(user("Is it late?"), answer("No."), user("And now?")),
    chat(user("Think."), answer("One thought."), answer("Another thought."), user("Thanks."), answer("Bye.")),
]
TOOLS = [
    {
        "messages": [
            user("Weather in Lima?"),
            answer(None, tool_calls=[call(day="today", city="Lima")]),
            {"role": "tool", "content": "18 degrees", "tool_call_id": "c1"},
            answer("It is 18 degrees in Lima."),
        ],
        "tools": [TOOL],
    },
    {"messages": [user("Good morning"), answer("Good morning to you.")], "tools": [TOOL]},
]
PLAIN_CALLS = [
    {
        "messages": [
            user("Weather in Quito?"),
            answer(
                None, tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": {"city": "Quito"}}}]
            ),
            {"role": "tool", "content": "14 degrees"},
            answer("It is 14 degrees in Quito."),
        ],
        "tools": [TOOL],
    },
]
REASONING = [chat(user(f"What is {n} times 3?"), answer(str(3 * n), reasoning_content=f"{n}+{n}+{n}")) for n in (2, 5)]
DATES = [chat(user(f"When did event {n} begin?"), answer(f"19{45 + n}-09-02")) for n in range(6)]
SPELLED = [chat(user("How does a turn end?"), answer("With <|im_end|> and a line break.")), *PAIRS[:1]]
LONG = [chat(user("Count."), answer(" ".join(str(n) for n in range(400)))), *PAIRS[:2]]
FLAGS = [
    chat(user("Capital of Chile?"), answer("Lima.", train=False), user("Sure?"), answer("No, Santiago.", train=True)),
    chat(user("Capital of Peru?"), answer("Lima.")),
]

POOLS: dict[str, list[Row]] = {
    "pairs": PAIRS,
    "dialogues": DIALOGUES,
    "odd": ODD,
    "tools": TOOLS,
    "plain-calls": PLAIN_CALLS,
    "reasoning": REASONING,
    "dates": DATES,
    "spelled": SPELLED,
    "long": LONG,
    "flags": FLAGS,
}

TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{% generation %}
{%- if message['reasoning_content'] %}{{ '<think>' + message['reasoning_content'] + '</think>' }}{% endif %}
{{- message['content'] or '' }}
{%- for call in message['tool_calls'] or [] %}{{ '<call>' + (call['function'] | tojson) + '</call>' }}{% endfor %}
{{- '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- (message['content'] or '') + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
"""ChatML with tools, tool calls and reasoning; the marks end after the end of the turn, before its line break."""
