"""No test knows of a model or a key that whoever runs the tests has set."""

import os

for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "NAS_")) and name != "NAS_GOLDEN"]:
    del os.environ[name]
os.environ["NO_PROXY"] = "127.0.0.1"
