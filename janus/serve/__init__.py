"""Serving a model to many people at once: an engine, an HTTP API in OpenAI's style, and a web page."""
