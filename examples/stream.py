"""A stream from `unmask serve` through OpenAI's client (pip install openai); start the server first.

python examples/stream.py [http://127.0.0.1:8000/v1]
"""

import sys

import openai

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = openai.OpenAI(base_url=base_url, api_key="none")
stream = client.chat.completions.create(
    model=client.models.list().data[0].id,
    messages=[{"role": "user", "content": "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"}],
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"diffusion": {"method": "r2-dllm", "threshold": 0.95}},  # for this request alone
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)  # only text that can no longer change
    elif chunk.usage:
        print(f"\n{chunk.usage.completion_tokens} tokens, {chunk.usage.model_extra['forwards']} forwards")
