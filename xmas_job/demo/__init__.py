"""The demo: a procedural pool and tiny LVLMs, landed as any other dataset. The line does not know it."""
