"""The page at `/`: it shows a decode live, and fetches nothing but the API beside it."""

from unmask.serve.service import Service


def page(service: Service) -> str:
    """The page."""
    return "<!doctype html><title>unmask</title>"
