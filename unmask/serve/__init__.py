"""The engine behind OpenAI's HTTP API, on one machine or many."""
