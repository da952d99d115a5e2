"""What DAGs wait for and tell each other of: landed data, published selections."""

from __future__ import annotations

from airflow.sdk import Asset

SELECTIONS = Asset("xmas_selections", uri="xmas://selections")
"""Every published selection is an event; its `extra` has selection_id, uri, manifest, num_examples, channel and run."""
