"""What DAGs wait for and tell each other of: landed data, published selections."""

from __future__ import annotations

from airflow.sdk import Asset

# x-: else Airflow imports all providers, to ask which of them knows the scheme.
SELECTIONS = Asset("xmas_selections", uri="x-xmas://selections")
"""Every published selection is an event; its `extra` has selection_id, uri, manifest, num_examples, channel and run."""
